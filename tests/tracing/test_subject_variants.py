"""Subjects written in other letters: what the variants are, and that each is scored on its own tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle import Fact
from mechstyle.errors import InputError, RangeError
from mechstyle.runs import logits
from mechstyle.tokens import encode, encode_fact
from mechstyle.tracing.subject_variants import average_variants, subject_variants

FACTS = [
    Fact("The instrument of {} is the", "Miles Davis", " trumpet", "plays"),
    Fact("{} plays the", "Jimi Hendrix", " guitar", "plays"),
    Fact("{} is the capital of", "rome", " Italy", "capital"),
]
PROMPTS = {
    (0, "original"): "The instrument of Miles Davis is the",
    (0, "lower case"): "The instrument of miles davis is the",
    (0, "upper case"): "The instrument of MILES DAVIS is the",
    (0, "space in front"): "The instrument of  Miles Davis is the",
    (0, "no space in front"): "The instrument ofMiles Davis is the",
    (1, "original"): "Jimi Hendrix plays the",
    (1, "lower case"): "jimi hendrix plays the",
    (1, "upper case"): "JIMI HENDRIX plays the",
    (1, "space in front"): " Jimi Hendrix plays the",
    (2, "original"): "rome is the capital of",
    (2, "upper case"): "ROME is the capital of",
    (2, "title case"): "Rome is the capital of",
    (2, "space in front"): " rome is the capital of",
}


def prob(model: Any, prompt: str, target: str) -> float:
    encoded = encode(model, prompt, target=target)
    run = logits(model, encoded.ids[None])[0].double().log_softmax(-1)
    places = torch.arange(encoded.n_prompt - 1, len(encoded) - 1)
    return float(run[places, encoded.target_ids].sum().exp())


def test_variants_that_change_nothing_are_left_out_and_others_scored_on_their_own_tokens(
    tiny_model: HookedTransformer,
) -> None:
    frame = subject_variants(tiny_model, FACTS, batch_size=4)
    assert (
        dict(zip(zip(frame["fact"], frame["variant"], strict=True), frame["prompt"], strict=True)) == PROMPTS
    )
    for row in frame.itertuples():
        wanted = prob(tiny_model, str(row.prompt), FACTS[int(row.fact)].target)  # type: ignore[arg-type]
        assert row.prob == pytest.approx(wanted, rel=1e-4)
        assert row.logprob == pytest.approx(np.log(wanted), abs=1e-4)


def test_token_counts_and_what_is_shared_with_the_original(tiny_model: HookedTransformer) -> None:
    frame = subject_variants(tiny_model, FACTS).set_index(["fact", "variant"])
    original = encode_fact(tiny_model, FACTS[0])
    upper = encode_fact(tiny_model, Fact(FACTS[0].template, "MILES DAVIS", " trumpet"))
    row = frame.loc[(0, "upper case")]
    assert row["n_tokens"] == len(upper.subject or ())
    assert row["n_tokens_original"] == len(original.subject or ())
    assert row["n_tokens"] > row["n_tokens_original"]
    known, kinds = ({one.strings[token] for token in one.subject or ()} for one in (original, upper))
    assert row["shared"] == pytest.approx(len(known & kinds) / len(kinds))
    same = frame.xs("original", level="variant")
    np.testing.assert_allclose(same[["shared", "cosine"]], 1, atol=1e-9)
    assert (frame.xs("upper case", level="variant")[["shared", "cosine"]] < 0.9).all(axis=None)


def test_the_control_is_somebody_elses_subject_in_the_same_place(tiny_model: HookedTransformer) -> None:
    frame = subject_variants(tiny_model, FACTS, seed=1)
    original = frame[frame["variant"] == "original"]
    # The only other fact of its relation has another target.
    wanted = prob(tiny_model, "The instrument of Jimi Hendrix is the", " trumpet")
    assert original["control"].iloc[0] == pytest.approx(wanted, rel=1e-4)
    lower = frame[(frame["variant"] == "lower case") & (frame["fact"] == 0)]["control"].item()
    assert lower == pytest.approx(
        prob(tiny_model, "The instrument of jimi hendrix is the", " trumpet"), rel=1e-4
    )
    assert original["control"].iloc[2] == pytest.approx(
        prob(tiny_model, "Miles Davis is the capital of", " Italy"), rel=1e-4
    ) or original["control"].iloc[2] == pytest.approx(
        prob(tiny_model, "Jimi Hendrix is the capital of", " Italy"), rel=1e-4
    )
    pd.testing.assert_frame_equal(frame, subject_variants(tiny_model, FACTS, seed=1))


def test_what_cannot_be_tokenised_is_counted(tiny_model: HookedTransformer) -> None:
    glued = [Fact("He saw the {} of", "day", " France"), FACTS[1]]
    frame = subject_variants(tiny_model, glued, variants=("no space in front",))
    counted = frame.attrs["provenance"]["settings"]["left_out"]["no space in front"]
    rows = int(((frame["fact"] == 0) & (frame["variant"] == "no space in front")).sum())
    assert counted + rows == 1


def test_averages_compare_a_variant_with_its_own_facts(tiny_model: HookedTransformer) -> None:
    frame = subject_variants(tiny_model, FACTS)
    table = average_variants(frame).set_index("variant")
    assert table.loc["original", "change"] == 0
    assert table.loc["title case", "n_facts"] == 1
    own = frame.set_index(["variant", "fact"])["prob"]
    wanted = np.mean([own[("lower case", fact)] - own[("original", fact)] for fact in (0, 1)])
    assert table.loc["lower case", "change"] == pytest.approx(wanted)
    assert (table["prob_low"] <= table["prob"]).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"facts": []}, InputError, "facts: expected one or more Facts"),
        ({"facts": FACTS[:1]}, InputError, "facts: expected at least two subjects with different targets"),
        ({"variants": ("mirrored",)}, InputError, "variants: expected some of original, lower case"),
        ({"batch_size": 0}, RangeError, "batch_size: expected a whole number of 1 or more"),
    ],
)
def test_bad_input_is_refused(
    given: dict[str, Any], error: type[Exception], message: str, tiny_model: HookedTransformer
) -> None:
    with pytest.raises(error, match=message):
        subject_variants(tiny_model, **{"facts": FACTS, **given})


def test_frames_of_something_else_are_refused() -> None:
    with pytest.raises(
        InputError, match="frame: expected the result of subject_variants, got one without fact"
    ):
        average_variants(pd.DataFrame({"x": [1]}))
