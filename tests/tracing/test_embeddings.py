"""Effects of changed embeddings: clean, changed and control runs against plain hooks, and their averages."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle import Fact, fingerprint
from mechstyle.errors import InputError, RangeError, TextError, WorkError
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise
from mechstyle.tracing import prompts as prompts_module
from mechstyle.tracing.embedding_changes import CorruptTokens, Embedded, SwapWords
from mechstyle.tracing.embeddings import average_effects, embedding_effects

FACTS = (
    Fact("The instrument of {} is the", "Miles Davis", " trumpet", "plays"),
    Fact("{} is the capital of", "Paris", " France"),
)
SWAP = SwapWords("first subject token", "last subject token")
NOISE = CorruptTokens("last subject token", GaussianNoise(sigma=0.3))


@dataclass(frozen=True)
class Constant:
    """Adds one vector to one token."""

    token: int
    vector: Tensor

    def changed(self, prompt: Embedded, embeddings: Tensor) -> Tensor:
        found = embeddings.clone()
        found[:, self.token] += self.vector.to(embeddings)
        return found

    def record(self) -> dict[str, Any]:
        return {"change": "constant"}


def plain(model: Any, fact: Fact, hooks: list[Any]) -> float:
    encoded = encode_fact(model, fact)
    with torch.no_grad():
        run = model.run_with_hooks(encoded.ids[None, : encoded.n_prompt], fwd_hooks=hooks)
    return float(run[0, -1].double().softmax(-1)[encoded.target_ids[0]])


def test_clean_and_changed_runs_are_those_of_plain_hooks(tiny_model: HookedTransformer) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    frame = embedding_effects(tiny_model, FACTS, {"one": Constant(1, vector)}, samples=2)

    def add(state: Tensor, hook: Any) -> Tensor:
        state[:, 1] += vector
        return state

    for number, fact in enumerate(FACTS):
        rows = frame[frame["fact"] == number]
        np.testing.assert_allclose(rows["clean"], plain(tiny_model, fact, []), atol=1e-7)
        np.testing.assert_allclose(rows["changed"], plain(tiny_model, fact, [("hook_embed", add)]), atol=1e-7)
        np.testing.assert_allclose(rows["size"], float(vector.norm()), rtol=1e-5)
        assert rows["control"].nunique() == 2


def test_what_the_mlps_still_recall_is_read_as_plain_hooks_would(tiny_model: HookedTransformer) -> None:
    vector = 2 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    fact = FACTS[0]
    encoded = encode_fact(tiny_model, fact)
    subject = list(encoded.subject or ())
    frame = embedding_effects(
        tiny_model, [fact], {"one": Constant(subject[0], vector)}, samples=1, read_mlps=True
    )
    kept: dict[str, Tensor] = {}

    def add(state: Tensor, hook: Any) -> Tensor:
        state[:, subject[0]] += vector
        return state

    def keep(state: Tensor, hook: Any) -> None:
        kept[hook.name] = state[:, subject].clone()

    def put(state: Tensor, hook: Any) -> Tensor:
        state[:, subject] = kept[hook.name]
        return state

    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    plain(tiny_model, fact, [("hook_embed", add), *((name, keep) for name in names)])
    wanted = plain(tiny_model, fact, [(name, put) for name in names])
    assert frame["mlp_changed"].item() == pytest.approx(wanted, abs=1e-7)
    assert frame["mlp_clean"].item() == pytest.approx(frame["clean"].item(), abs=1e-7)
    assert abs(frame["mlp_changed"].item() - frame["changed"].item()) > 1e-5


def test_a_change_of_nothing_has_no_effect_and_no_control_either(tiny_model: HookedTransformer) -> None:
    frame = embedding_effects(tiny_model, FACTS, {"nothing": Constant(0, torch.zeros(32))}, read_mlps=True)
    for prefix in ("", "mlp_"):
        for run in ("changed", "control"):
            np.testing.assert_allclose(frame[prefix + run], frame[prefix + "clean"], atol=1e-7)
    assert (frame["size"] == 0).all()


def test_controls_move_the_same_tokens_as_far_in_other_directions(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    original = prompts_module.AskedPrompt.values

    def noted(self: Any, embeddings: Tensor, **how: Any) -> Tensor:
        seen.append(embeddings)
        return original(self, embeddings, **how)

    monkeypatch.setattr(prompts_module.AskedPrompt, "values", noted)
    embedding_effects(tiny_model, FACTS[:1], {"swap": SWAP, "noise": NOISE}, samples=3)
    own, rest = seen[0][0], seen[0][1:] - seen[0][0]
    for there, control in ((rest[:3], rest[3:6]), (rest[6:9], rest[9:])):
        torch.testing.assert_close(there.norm(dim=-1), control.norm(dim=-1), atol=1e-5, rtol=1e-5)
        moved = there.norm(dim=-1) > 0
        assert moved.any()
        assert not moved.all()
        cosines = torch.nn.functional.cosine_similarity(there[moved], control[moved], dim=-1)
        assert float(cosines.abs().max()) < 0.8
    assert not torch.equal(rest[3], rest[4])
    assert own.shape == (seen[0].shape[1], 32)


def test_one_seed_gives_one_frame_whatever_fits_into_memory(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"swap": SWAP, "both": (SWAP, NOISE)}
    first, again, other = (
        embedding_effects(tiny_model, FACTS[:1], changes, seed=seed, read_mlps=True) for seed in (4, 4, 5)
    )
    pd.testing.assert_frame_equal(first, again)
    assert (first["control"] != other["control"]).all()
    monkeypatch.setattr(prompts_module.AskedPrompt, "rows", lambda self: 2)
    pd.testing.assert_frame_equal(
        embedding_effects(tiny_model, FACTS[:1], changes, seed=4, read_mlps=True), first, atol=1e-6
    )


def test_a_bridge_gives_the_frame_of_the_hooked_model(
    tiny_folder: Path, tiny_model: HookedTransformer
) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    wanted, found = (
        embedding_effects(one, FACTS, {"noise": NOISE}, read_mlps=True, prepend_bos=False)
        for one in (tiny_model, bridge)
    )
    pd.testing.assert_frame_equal(found, wanted, atol=1e-6)


def test_facts_without_a_place_for_a_change_are_counted_and_left_out(tiny_model: HookedTransformer) -> None:
    frame = embedding_effects(tiny_model, FACTS, {"swap": SwapWords("instrument", "subject"), "noise": NOISE})
    assert set(frame.query("change == 'swap'")["fact"]) == {0}
    assert set(frame.query("change == 'noise'")["fact"]) == {0, 1}
    settings = frame.attrs["provenance"]["settings"]
    assert settings["left_out"] == {"swap": 1, "noise": 0}
    assert settings["changes"]["noise"][0]["sigma"] == 0.3
    assert frame.attrs["provenance"]["fingerprint"] == fingerprint(tiny_model)
    with pytest.raises(TextError, match="changes: no fact's prompt has a place for 'swap'"):
        embedding_effects(tiny_model, FACTS[1:], {"swap": SwapWords("instrument", "subject")})


def test_the_weights_stay_as_they_are(tiny_model: HookedTransformer) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    embedding_effects(tiny_model, FACTS, {"swap": NOISE}, read_mlps=True)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_averages_give_every_fact_one_vote(tiny_model: HookedTransformer) -> None:
    frame = pd.DataFrame(
        {
            "fact": [0, 0, 0, 1], "change": "one", "size": [1.0, 1.0, 1.0, 3.0],
            "clean": [0.9, 0.9, 0.9, 0.5], "changed": [0.3, 0.2, 0.1, 0.5], "control": [0.8, 0.8, 0.8, 0.1],
        }
    )  # fmt: skip
    row = average_effects(frame).iloc[0]
    assert row["n_facts"] == 2
    assert row["size"] == pytest.approx(2.0)
    assert row["effect"] == pytest.approx((-0.7 + 0.0) / 2)
    assert row["control_effect"] == pytest.approx((-0.1 - 0.4) / 2)
    assert row["beyond_control"] == pytest.approx((-0.6 + 0.4) / 2)
    assert row["effect_low"] == pytest.approx(-0.7)
    assert row["effect_high"] == pytest.approx(0.0)
    with pytest.raises(InputError, match="got one without mlp_clean, mlp_changed, mlp_control"):
        average_effects(frame, prefix="mlp_")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"facts": []}, InputError, "facts: expected one or more Facts in a list"),
        ({"facts": ["Paris"]}, InputError, "facts: expected one or more Facts in a list"),
        ({"changes": {}}, InputError, "changes: expected one or more changes by name"),
        ({"changes": {"x": 3}}, InputError, r"changes\['x'\]: expected a change such as SwapWords"),
        ({"changes": {"x": ()}}, InputError, r"changes\['x'\]: expected a change"),
        ({"metric": "neg_kl"}, InputError, "metric: expected 'prob' or 'logprob', got 'neg_kl'"),
        ({"samples": 0}, RangeError, "samples: expected a whole number of 1 or more, got 0"),
    ],
)
def test_bad_input_is_refused(
    given: dict[str, Any], error: type[Exception], message: str, tiny_model: HookedTransformer
) -> None:
    with pytest.raises(error, match=message):
        embedding_effects(tiny_model, **{"facts": FACTS, "changes": {"noise": NOISE}, **given})


def test_scores_that_are_not_finite_are_told(tiny_model: HookedTransformer) -> None:
    with pytest.raises(WorkError, match="gave a score that is NaN or infinite"):
        embedding_effects(tiny_model, FACTS, {"far": Constant(0, torch.full((32,), torch.inf))})
