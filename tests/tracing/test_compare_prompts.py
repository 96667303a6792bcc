"""Distances between traces and between prompts: planted groups are found, unrelated ones are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, spearmanr
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import fingerprint
from mechstyle.tracing import Trace
from mechstyle.tracing.aligned import align
from mechstyle.tracing.compare_prompts import compare_prompts, trace_distances
from mechstyle.tracing.mantel import mantel
from mechstyle.tracing.prompt_distances import model_distances, text_distances
from tests.tracing.written import ROLES, written

SUBJECTS = ("Miles Davis", "Chet Baker", "Jimi Hendrix", "Bill Evans", "Paris", "Rome", "Zürich", "London")
ROLES_OF_TWO = ("first subject token", "last subject token")


def facts(n: int) -> list[Fact]:
    """The first half of one relation, the others of another."""
    made = []
    for index in range(n):
        template, relation = ("{} plays the", "plays") if index < n // 2 else ("{} is a city in", "city")
        made.append(Fact(template, SUBJECTS[index % len(SUBJECTS)] + "!" * (index // 8), " x", relation))
    return made


def planted(n: int, *, apart: float, seed: int, model: str = "f") -> list[Trace]:
    """Traces of two groups whose maps differ by so many times the noise within a group."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(2, 4, 5))
    maps = centres.repeat(n // 2, axis=0) + rng.normal(size=(n, 4, 5))
    return [
        written({"mlp": one}, fact=fact, fingerprint=model) for one, fact in zip(maps, facts(n), strict=True)
    ]


def random_distances(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    places = rng.normal(size=(n, 3))
    return np.linalg.norm(places[:, None] - places, axis=-1)


def test_traces_of_two_kinds_of_prompts_are_told_apart_and_clustered() -> None:
    found = compare_prompts(planted(12, apart=2.0, seed=0), permutations=999)
    assert found.mantel["p"]["relation"] <= 0.01
    assert found.mantel["r"]["relation"] > 0.6
    assert found.mantel["n_pairs"]["relation"] == 66
    halves = ["plays" if index < 6 else "city" for index in found.order]
    assert len(list(itertools.groupby(halves))) == 2  # each group in one piece
    means = found.groups["mean"]
    assert means["same relation, same template"] < means["other relation"]
    assert found.groups["high"]["same relation, same template"] < found.groups["low"]["other relation"]
    assert found.groups["n_pairs"].tolist() == [30, 36]


def test_unrelated_traces_give_every_p_equally_often() -> None:
    rng = np.random.default_rng(0)
    found = [
        mantel(random_distances(rng, 8), random_distances(rng, 8), permutations=99, seed=run).p
        for run in range(300)
    ]
    assert kstest(found, "uniform").pvalue > 0.01
    assert min(found) >= 1 / 100


def test_the_test_is_spearman_with_the_share_of_all_orders() -> None:
    rng = np.random.default_rng(1)
    one = random_distances(rng, 5)
    other = one + 0.8 * random_distances(rng, 5)
    rows, columns = np.triu_indices(5, 1)
    found = mantel(one, other, permutations=4000, seed=0)
    assert found.r == pytest.approx(spearmanr(one[rows, columns], other[rows, columns]).statistic)
    every = [
        spearmanr(one[rows, columns], other[np.ix_(order, order)][rows, columns]).statistic
        for order in itertools.permutations(range(5))
    ]
    exact = np.mean([r >= found.r - 1e-12 for r in every])
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000))
    assert mantel(one, one, permutations=99).r == pytest.approx(1.0)


def test_distances_that_are_all_the_same_say_nothing() -> None:
    found = mantel(np.ones((5, 5)) - np.eye(5), random_distances(np.random.default_rng(0), 5))
    assert np.isnan(found.r)
    assert np.isnan(found.p)


@pytest.mark.parametrize("measure", ["correlation", "rms"])
def test_distances_between_traces_are_what_a_plain_loop_finds(measure: str) -> None:
    rng = np.random.default_rng(0)
    # One with all roles, one without a middle token, and both with a token before the subject.
    traces = []
    for roles in (("before subject", *ROLES), ("before subject", *ROLES_OF_TWO)) * 3:
        effects = rng.normal(size=(len(roles), 5))
        effects[0] = 0
        traces.append(written({"mlp": effects, "attn": 2 * effects + 1 * (effects != 0)}, roles=roles))
    found = trace_distances(align(traces, average=True), measure=measure)  # type: ignore[arg-type]
    assert np.array_equal(found, found.T)
    assert not np.diagonal(found).any()
    for (i, one), (j, other) in itertools.combinations(enumerate(traces), 2):
        cells = []
        for kind, role in itertools.product(one.kinds, dict.fromkeys(ROLES)):
            sides = [t.indirect_effect(kind).values[t.data["role"].values == role] for t in (one, other)]
            if all(len(side) for side in sides):
                cells.append([side.mean(0) for side in sides])
        first, second = (np.concatenate(side) for side in zip(*cells, strict=True))
        if measure == "rms":
            assert found[i, j] == pytest.approx(np.sqrt(np.mean((first - second) ** 2)))
        else:
            assert found[i, j] == pytest.approx(1 - np.corrcoef(first, second)[0, 1])


def test_a_trace_is_nowhere_from_itself_and_a_flat_one_is_like_none() -> None:
    same = written({"mlp": np.arange(8.0).reshape(4, 2)})
    flat = written({"mlp": np.ones((4, 2))})
    found = trace_distances(align([same, same, flat], average=True))
    assert found[0, 1] == pytest.approx(0, abs=1e-12)
    assert found[0, 2] == 1
    with pytest.raises(InputError, match="expected effects to compare, but all are 0"):
        trace_distances(align([written({"mlp": np.zeros((4, 2))})], average=True))
    sides = [written({"mlp": np.ones((1, 2))}, roles=(role,)) for role in ("one set", "another set")]
    with pytest.raises(InputError, match="numbers 0 and 1 have no token role in common"):
        trace_distances(align(sides, average=True))


def test_distances_between_prompts_say_what_they_are_called() -> None:
    given = [
        Fact("{} plays the", "Miles Davis", " x", "plays"),
        Fact("{} plays the", "Miles Davit", " x", "plays"),
        Fact("{} is from", "Miles Davis", " x"),
    ]
    found = text_distances(given)
    assert found["relation"].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert found["subject"][0].tolist() == pytest.approx([0, 1 / 11, 0])
    assert found["template"][0, 1] == 0
    assert found["prompt"][0, 1] == pytest.approx(1 / 21)
    assert found["length"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_distances_in_a_models_spaces_are_cosines(tiny_model: HookedTransformer) -> None:
    given = facts(4)
    found = model_distances(tiny_model, given, layer=1, prepend_bos=False)
    assert set(found) == {"embedding", "subject embedding", "hidden state of layer 1"}
    tokens = [tiny_model.tokenizer(fact.prompt, return_tensors="pt")["input_ids"] for fact in given[:2]]
    means = [tiny_model.W_E[one[0]].mean(0).detach().numpy() for one in tokens]
    states = [tiny_model.run_with_cache(one)[1]["blocks.1.hook_resid_post"][0, -1].numpy() for one in tokens]
    for name, (one, other) in (("embedding", means), ("hidden state of layer 1", states)):
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found[name][0, 1] == pytest.approx(1 - cosine, abs=1e-5)
        assert np.array_equal(found[name], found[name].T)
        assert not np.diagonal(found[name]).any()
    with pytest.raises(RangeError):
        model_distances(tiny_model, given, layer=3)


def test_a_comparison_with_a_model_tests_its_distances_too(tiny_model: HookedTransformer) -> None:
    traces = planted(8, apart=1.0, seed=0, model=fingerprint(tiny_model))
    found = compare_prompts(iter(traces), model=tiny_model, layer=0, permutations=19)
    assert list(found.mantel.index) == [
        *text_distances(facts(8)),
        *model_distances(tiny_model, facts(8), layer=0),
    ]
    assert found.pairs.shape == (28, 3 + 8)
    row = found.pairs.iloc[5]
    assert row["trace"] == found.distances[int(row["first"]), int(row["second"])]
    with pytest.raises(ModelError, match="model: expected the traced one, fingerprint f,"):
        compare_prompts(planted(8, apart=1.0, seed=0), model=tiny_model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"measure": "cosine"}, "measure: expected one of correlation, rms, got 'cosine'"),
        ({"permutations": 0}, "permutations: expected a whole number of at least 1"),
        ({"level": 0}, "level: expected a share"),
        ({"kinds": ("attn",)}, "traces: expected the kind 'attn', got mlp"),
    ],
)
def test_wrong_options_of_a_comparison_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_prompts(planted(6, apart=1.0, seed=0), **wrong)  # type: ignore[arg-type]


def test_traces_that_cannot_be_compared_with_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least 4 to compare, got 3"):
        compare_prompts(planted(6, apart=1.0, seed=0)[:3])
    with pytest.raises(InputError, match="expected traces of facts, but number 0 is none"):
        compare_prompts([written({"mlp": np.ones((4, 2))})] * 4)
    with pytest.raises(InputError, match="expected distances between at least 4 things, got 3"):
        mantel(np.zeros((3, 3)), np.zeros((3, 3)))
    lopsided = np.triu(np.ones((4, 4)), 1)
    with pytest.raises(InputError, match="second: expected finite, symmetric distances"):
        mantel(np.zeros((4, 4)), lopsided)
    with pytest.raises(InputError, match=r"first: expected a square matrix of distances, got \[2, 3\]"):
        mantel(np.zeros((2, 3)), lopsided)
    with pytest.raises(InputError, match="as many things as in first, 4, got 5"):
        mantel(np.zeros((4, 4)), np.zeros((5, 5)))
