"""Path patching: what must hold of it, whatever the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.sites import Site
from mechstyle.tokens import encode
from mechstyle.tracing import Trace
from mechstyle.tracing.path_ends import Receiver, places_of, senders_of
from mechstyle.tracing.path_patching import path_patching
from mechstyle.tracing.path_resumed import ResumedPaths
from mechstyle.tracing.path_states import Pair
from mechstyle.tracing.targets import Contrast
from tests.oracles import path_loop, trace_loop

Models = Callable[..., HookedTransformer]
CLEAN, CORRUPTED = "The instrument of Miles Davis is the", "The instrument of Bill Evans is the"
N_PROMPT, FIRST = 7, 3
LOGITS = (Receiver(None, "logits"),)
MIXED = (Receiver(1, "q", 3), Receiver(2, "k", 1), Receiver(2, "mlp"))
ARCHITECTURES = ("gpt2", "gptj", "llama-gqa")


def paths(model: Any, receivers: tuple[Receiver, ...] = MIXED, **options: Any) -> Trace:
    clean, corrupted = options.pop("clean", CLEAN), options.pop("corrupted", CORRUPTED)
    return path_patching(
        model, clean, corrupted, receivers=receivers, prepend_bos=False,
        **{"answer": " trumpet too", **options},
    )  # fmt: skip


def values(trace: Trace) -> NDArray[np.float64]:
    """The metric of every sender, for every set of tokens."""
    return np.concatenate(
        [trace.data[kind].values.reshape(trace.data.sizes["token"], -1) for kind in trace.kinds], 1
    )


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("through_mlps", [True, False])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_value_is_that_of_the_textbook(
    architectures: Models, kind: str, through_mlps: bool, direction: str
) -> None:
    model = architectures(kind)
    clean, corrupted = (
        encode(model, text, target=" trumpet too", prepend_bos=False) for text in (CLEAN, CORRUPTED)
    )
    sides = clean.ids[None, :-1], corrupted.ids[None, :-1]
    base, source = sides if direction == "noising" else sides[::-1]
    senders = [(one.kind, one.layer, one.head) for one in senders_of(model.cfg, ("heads",))]
    logits = path_loop.path_patching(
        model,
        base,
        source,
        senders,
        [[(one.kind, one.layer or 0, one.head) for one in MIXED]],
        positions=range(FIRST, base.shape[1]),
        run_mlps=through_mlps,
    )[0]
    wanted = [trace_loop.score(one, clean.ids.tolist(), N_PROMPT, "logprob") for one in logits]
    ends = [
        trace_loop.score(path_loop.run(model, ids, {})[0], clean.ids.tolist(), N_PROMPT, "logprob")
        for ids in sides
    ]
    for engine in ("resume", "whole"):
        trace = paths(
            model, senders=("heads",), through_mlps=through_mlps, direction=direction, engine=engine
        )
        np.testing.assert_allclose(values(trace)[0], wanted, atol=1e-9)
        np.testing.assert_allclose([trace.clean, trace.corrupted.item()], ends, atol=1e-9)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_with_mlps_held_direct_effects_on_the_residual_stream_add_up_to_the_difference_of_the_runs(
    architectures: Models, kind: str
) -> None:
    model = architectures(kind)
    base, source = (encode(model, text, prepend_bos=False).ids[None] for text in (CORRUPTED, CLEAN))
    places, senders = places_of(model.cfg, LOGITS), senders_of(model.cfg, ("heads", "mlp"))
    runs, reverse = (
        ResumedPaths.of(model, Pair(*pair, places, n_answer=1, run_mlps=False))
        for pair in ((base, source), (source, base))
    )
    positions = torch.arange(FIRST, N_PROMPT)
    (received,) = runs.received(senders, positions).values()
    ends = [one.base.residuals[-1][0, positions] for one in (reverse, runs)]
    embedded = [one.base.residuals[0][0, positions] for one in (reverse, runs)]
    total = (received - ends[1]).sum(0)
    torch.testing.assert_close(total, ends[0] - ends[1] - (embedded[0] - embedded[1]))
    assert total.norm() > 1


@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_sender_that_no_receiver_can_hear_changes_nothing(
    architectures: Models, kind: str, engine: str
) -> None:
    receivers = (Receiver(1, "q", 0), Receiver(1, "mlp"))
    effect = paths(architectures(kind), receivers, engine=engine)
    heads, mlps = (effect.indirect_effect(kind).values[0] for kind in ("heads", "mlp"))
    hears_own_layer = kind != "gptj"  # whose MLPs read what attention reads
    assert (np.abs(heads[0]) > 1e-6).all()
    assert (np.abs(heads[1]) > 1e-6).all() == hears_own_layer
    np.testing.assert_allclose(heads[1 + hears_own_layer :], 0, atol=1e-12)
    np.testing.assert_allclose(mlps[1:], 0, atol=1e-12)
    assert abs(mlps[0]) > 1e-6


@pytest.mark.parametrize("through_mlps", [True, False])
def test_noising_is_denoising_with_the_prompts_swapped(architectures: Models, through_mlps: bool) -> None:
    model = architectures("llama-gqa")
    noising = paths(model, direction="noising", through_mlps=through_mlps)
    swapped = paths(model, clean=CORRUPTED, corrupted=CLEAN, through_mlps=through_mlps)
    np.testing.assert_array_equal(values(noising), values(swapped))
    assert (noising.clean, noising.corrupted.item()) == (swapped.corrupted.item(), swapped.clean)
    np.testing.assert_array_equal(noising.indirect_effect("mlp"), swapped.indirect_effect("mlp"))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_layers_senders_past_its_own_residual_stream_are_plain_patches(
    architectures: Models, kind: str, layer: int
) -> None:
    """Nothing is frozen that the stream after the sender's own layer would depend on."""
    model = architectures(kind)
    clean, corrupted = (
        encode(model, text, target=" trumpet too", prepend_bos=False) for text in (CLEAN, CORRUPTED)
    )
    names = {"heads": f"blocks.{layer}.attn.hook_z", "mlp": f"blocks.{layer}.hook_mlp_out"}
    states = path_loop.run(model, clean.ids[None, :-1], {}, list(names.values()))[1]
    trace = paths(model, (Receiver(layer, "resid"),))

    def patched(name: str, part: tuple[Any, ...]) -> float:
        def edit(state: torch.Tensor) -> None:
            state[(0, slice(None), *part)] = states[name][(0, slice(None), *part)]

        logits = path_loop.run(model, corrupted.ids[None, :-1], {name: edit})[0]
        return trace_loop.score(logits, clean.ids.tolist(), N_PROMPT, "logprob")

    heads = [patched(names["heads"], (head,)) for head in range(4)]
    np.testing.assert_allclose(trace.data["heads"].values[0, 0, layer], heads, atol=1e-9)
    np.testing.assert_allclose(trace.data["mlp"].values[0, 0, layer], patched(names["mlp"], ()), atol=1e-9)
    assert np.abs(np.array(heads) - trace.corrupted.item()).min() > 1e-6


def test_the_last_residual_stream_is_what_the_logits_are_of_and_hides_what_lies_below(
    architectures: Models,
) -> None:
    model = architectures("gpt2")
    wanted = values(paths(model, LOGITS))
    np.testing.assert_allclose(values(paths(model, (Receiver(2, "resid"),))), wanted, atol=1e-12)
    np.testing.assert_allclose(values(paths(model, (*MIXED, *LOGITS))), wanted, atol=1e-9)
    assert not np.allclose(values(paths(model, MIXED)), wanted, atol=1e-3)


def test_paths_lead_through_mlps_only_where_there_is_one_in_between(architectures: Models) -> None:
    """Beside attention, as in GPT-J, the MLP of the sender's own layer is not in between."""
    for kind, in_between in (("gpt2", True), ("gptj", False)):
        next_layer = [Receiver(1, part, 0) for part in ("q", "k", "v")]
        through, held = (
            paths(architectures(kind), tuple(next_layer), through_mlps=through).data
            for through in (True, False)
        )
        np.testing.assert_allclose(through["mlp"][0, 0, 0], held["mlp"][0, 0, 0], atol=1e-12)
        difference = np.abs(through["heads"] - held["heads"]).values[0, 0, 0]
        assert (difference.min() > 1e-6) if in_between else (difference.max() < 1e-9)


@pytest.mark.parametrize("engine", ["resume", "whole"])
def test_sets_of_tokens_are_places_on_the_token_axis(architectures: Models, engine: str) -> None:
    model, fact = architectures("gpt2"), Fact("The instrument of {} is the", "Miles Davis", " trumpet")
    options: dict[str, Any] = {"clean": fact, "answer": None, "engine": engine}
    sets = {"every": range(N_PROMPT), "subject": [4, 3], "end": "last prompt token", "before": [0, 1, 2]}
    trace = paths(
        model,
        tokens={name: some if isinstance(some, str) else list(some) for name, some in sets.items()},
        **options,
    )
    assert list(trace.data["token_str"].values) == list(sets)
    assert trace.settings["tokens"]["subject"] == [3, 4]
    every = paths(model, **options)
    assert list(every.data["token_str"].values) == ["all tokens"]
    np.testing.assert_allclose(values(trace)[0], values(every)[0], atol=1e-12)
    np.testing.assert_allclose(values(trace)[3], trace.corrupted.item(), atol=1e-12)
    assert not np.allclose(values(trace)[1], values(trace)[2], atol=1e-4)


@pytest.mark.parametrize("engine", ["resume", "whole"])
def test_any_batch_size_gives_the_same(architectures: Models, engine: str) -> None:
    model = architectures("llama-gqa")
    wanted = values(paths(model, engine=engine))
    for batch_size in (1, 4, 7):
        found = paths(model, engine=engine, batch_size=batch_size)
        np.testing.assert_allclose(values(found), wanted, atol=1e-12)
        assert found.settings["max_batch"] == batch_size


def test_a_contrast_is_the_difference_of_its_two_answers(architectures: Models) -> None:
    model = architectures("gpt2")
    wanted, other = " trumpet too", " guitar"
    contrast = paths(model, answer=Contrast(wanted, other))
    one, two = (paths(model, answer=answer) for answer in (wanted, other))
    np.testing.assert_allclose(values(contrast), values(one) - values(two), atol=1e-9)
    assert contrast.clean == pytest.approx(one.clean - two.clean)
    assert contrast.corrupted.item() == pytest.approx((one.corrupted - two.corrupted).item())


def test_a_distance_from_the_clean_run_is_zero_only_there(architectures: Models) -> None:
    trace = paths(architectures("gpt2"), LOGITS, metric="neg_kl", answer=None, direction="noising")
    assert trace.clean == 0
    assert (values(trace)[0] < -1e-9).all()


def test_a_trace_of_paths_is_kept_in_a_file_and_says_how_it_was_made(
    architectures: Models, tmp_path: Path
) -> None:
    trace = paths(architectures("gpt2"), direction="noising", through_mlps=False)
    trace.save(tmp_path / "paths.nc")
    assert Trace.load(tmp_path / "paths.nc") == trace
    named = {name: trace.settings[name] for name in ("receivers", "direction", "through_mlps", "engine")}
    assert named == {
        "receivers": ["q of layer 1, head 3", "k of layer 2, head 1", "mlp of layer 2"],
        "direction": "noising",
        "through_mlps": False,
        "engine": "resume",
    }
    low, high = trace.interval("heads")
    assert low.shape == high.shape == (1, 3, 4)


def test_a_model_with_hooks_is_run_whole_and_the_hooks_count(architectures: Models) -> None:
    plain, hooked = architectures("gpt2"), copy.deepcopy(architectures("gpt2"))
    hooked.add_hook(Site(1, "attn").hook, lambda state, hook: state * 0)
    found = paths(hooked)
    assert found.settings["engine"] == "whole"
    assert not np.allclose(values(found), values(paths(plain)), atol=1e-3)
    with pytest.raises(InputError, match="engine: paths of this model are run whole, since it carries hooks"):
        paths(hooked, engine="resume")


def test_a_bridge_is_run_whole(tiny_folder: Path, tiny_model: HookedTransformer) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    for through_mlps in (True, False):
        found = paths(bridge, through_mlps=through_mlps)
        assert found.settings["engine"] == "whole"
        np.testing.assert_allclose(
            values(found), values(paths(tiny_model, through_mlps=through_mlps)), atol=1e-4
        )
