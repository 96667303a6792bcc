"""Relatedness of subject and object, and its rank correlation with recall, against formulas and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from transformer_lens import HookedTransformer

from mechstyle import Fact, fingerprint
from mechstyle.errors import InputError, RangeError
from mechstyle.runs import logits
from mechstyle.tokens import encode_fact
from mechstyle.tracing.relatedness import MEASURES, ease_of_recall, relatedness

FACTS = [
    Fact("The instrument of {} is the", "Miles Davis", " trumpet", "plays"),
    Fact("The instrument of {} is the", "Bill Evans", " piano", "plays"),
    Fact("The instrument of {} is the", "Jimi Hendrix", " guitar", "plays"),
    Fact("{} is the capital of", "Paris", " France"),
]


def test_cosines_are_those_of_centred_embeddings_and_recall_is_the_models(
    tiny_model: HookedTransformer,
) -> None:
    frame = relatedness(tiny_model, FACTS, batch_size=3)
    table = tiny_model.W_E.detach().double()
    table = table - table.mean(0)
    out = tiny_model.W_U.detach().double().T
    out = (out - out.mean(0)) * tiny_model.ln_final.w.detach().double()
    out = out - out.mean(-1, keepdim=True)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    firsts = [int(encode_fact(tiny_model, fact).target_ids[0]) for fact in FACTS]
    for number, fact in enumerate(FACTS):
        encoded = encode_fact(tiny_model, fact)
        subject = table[encoded.ids[encoded.subject.start : encoded.subject.stop]]  # type: ignore[union-attr]
        row = frame.iloc[number]
        assert row["embedding"] == pytest.approx(cosine(subject.mean(0), table[firsts[number]]), abs=1e-5)
        assert row["last_embedding"] == pytest.approx(cosine(subject[-1], table[firsts[number]]), abs=1e-5)
        assert row["unembedding"] == pytest.approx(cosine(subject.mean(0), out[firsts[number]]), abs=1e-5)
        if number < 3:
            others = [cosine(subject.mean(0), table[firsts[one]]) for one in range(3) if one != number]
            assert row["embedding_control"] == pytest.approx(np.mean(others), abs=1e-5)
        else:
            assert np.isnan(row["embedding_control"])
        run = logits(tiny_model, encoded.ids[None])[0].log_softmax(-1)
        places = torch.arange(encoded.n_prompt - 1, len(encoded) - 1)
        assert row["logprob"] == pytest.approx(float(run[places, encoded.target_ids].sum()), abs=1e-4)
    assert frame.attrs["provenance"]["fingerprint"] == fingerprint(tiny_model)


def table_of(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"relation": ["a", "b"] * (n // 2), "logprob": rng.normal(size=n)})
    for name in MEASURES:
        frame[name] = frame["logprob"] + rng.normal(size=n)
        frame[f"{name}_control"] = rng.normal(size=n)
    return frame


def test_correlations_over_all_facts_are_spearmans(tiny_model: HookedTransformer) -> None:
    frame = table_of()
    found = ease_of_recall(frame, resamples=60).set_index(["measure", "form", "within"])
    for name in MEASURES:
        wanted = spearmanr(frame[name] - frame[f"{name}_control"], frame["logprob"]).statistic
        assert found.loc[(name, "excess", False), "spearman"] == pytest.approx(wanted, abs=1e-12)
        assert found.loc[(name, "cosine", False), "spearman"] == pytest.approx(
            spearmanr(frame[name], frame["logprob"]).statistic, abs=1e-12
        )
        row = found.loc[(name, "cosine", False)]
        assert 0 < row["low"] < row["spearman"] < row["high"] < 1
    control = found.xs("control", level="form")
    assert ((control["low"] < 0) & (control["high"] > 0)).any()


def test_within_relations_the_means_of_ranks_count_for_nothing() -> None:
    frame = table_of()
    easy = frame["relation"] == "a"
    frame.loc[easy, ["logprob", "embedding"]] += 100.0
    found = ease_of_recall(frame, resamples=20).set_index(["measure", "form", "within"])["spearman"]
    ranks = np.stack([rankdata(frame[name]) for name in ("embedding", "logprob")])
    for group in (easy, ~easy):
        ranks[:, group] -= ranks[:, group].mean(1, keepdims=True)
    wanted = np.corrcoef(ranks)[0, 1]
    assert found[("embedding", "cosine", True)] == pytest.approx(wanted, abs=1e-12)
    assert found[("embedding", "cosine", False)] > found[("embedding", "cosine", True)]


def test_one_seed_gives_one_interval_and_facts_without_a_control_drop_out() -> None:
    frame = table_of()
    frame.loc[:4, "embedding_control"] = np.nan
    first, again = (ease_of_recall(frame, resamples=10, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    counts = first[first["measure"] == "embedding"].groupby("form")["n_facts"].first()
    assert counts.to_dict() == {"cosine": 40, "control": 35, "excess": 35}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"frame": table_of().drop(columns="logprob")}, InputError, "got one without logprob"),
        ({"level": 1.0}, RangeError, "level: expected a share between 0 and 1"),
        ({"resamples": 0}, RangeError, "resamples: expected a whole number of 1 or more"),
        (
            {"frame": table_of(2)},
            RangeError,
            "frame: expected at least 3 facts with embedding .cosine., got 2",
        ),
    ],
)
def test_bad_tables_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ease_of_recall(**{"frame": table_of(), **given})


def test_no_facts_are_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="facts: expected one or more Facts"):
        relatedness(tiny_model, [])
