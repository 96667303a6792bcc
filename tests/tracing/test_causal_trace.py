"""The trace against a plain loop, and the theorems that hold for any model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, ModelError, RangeError, TextError, WorkError
from mechstyle.facts import Fact
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, causal_trace, default_window, window_layers
from tests.oracles import trace_loop

FACTS = {
    "start": Fact("{} plays the", "Miles Davis", " trumpet"),
    "inside": Fact("The instrument of {} is the", "Miles Davis", " trumpet"),
    "end": Fact("He was born in {}", "Zürich", " Switzerland"),
}
KINDS = ("resid", "mlp", "attn")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def model(_loaded_tiny: HookedTransformer) -> HookedTransformer:
    return _loaded_tiny


@pytest.mark.parametrize("metric", ["prob", "logprob"])
@pytest.mark.parametrize(
    ("place", "bos", "window"), [("start", False, 1), ("inside", True, 2), ("end", False, 3)]
)
def test_the_trace_equals_the_plain_loop(
    model: HookedTransformer, place: str, bos: bool, window: int, metric: str
) -> None:
    fact = FACTS[place]
    encoded = encode_fact(model, fact, prepend_bos=bos)
    assert encoded.subject is not None
    draws = torch.randn(
        2, len(encoded.subject), model.cfg.d_model, generator=torch.Generator().manual_seed(3)
    )
    trace = causal_trace(model, fact, noise=draws, metric=metric, window=window, prepend_bos=bos)
    for kind in KINDS:
        clean, corrupted, restored = trace_loop.trace(
            model,
            encoded.ids.tolist(),
            n_prompt=encoded.n_prompt,
            subject=encoded.subject,
            draws=draws,
            kind=kind,
            width=window,
            metric=metric,
        )
        tolerance = TOLERANCE if metric == "prob" else 1e-4
        assert trace.clean == pytest.approx(clean, abs=tolerance)
        np.testing.assert_allclose(trace.corrupted.values, corrupted, atol=tolerance)
        np.testing.assert_allclose(trace.data[kind].values, restored, atol=tolerance)
        paired = np.array(restored) - np.array(corrupted)[:, None, None]
        np.testing.assert_allclose(
            trace.indirect_effect(kind, reduce=None).values, paired, atol=2 * tolerance
        )
        np.testing.assert_allclose(trace.indirect_effect(kind).values, paired.mean(0), atol=2 * tolerance)
    np.testing.assert_allclose(
        trace.total_effect(reduce=None).values, clean - np.array(corrupted), atol=tolerance
    )


def test_cells_before_the_subject_equal_the_baseline(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACTS["inside"], samples=3, prepend_bos=True)
    start = trace.token("first subject token")
    assert start > 1
    for kind in KINDS:
        effect = trace.indirect_effect(kind, reduce=None).values
        assert (effect[:, :start] == 0).all()
        assert (effect[:, start:] != 0).any()


def test_restoring_every_subject_embedding_recovers_the_clean_run(model: HookedTransformer) -> None:
    encoded = encode_fact(model, FACTS["inside"])
    assert encoded.subject is not None
    ids = encoded.ids.tolist()
    draw = torch.randn(len(encoded.subject), model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    clean_logits, clean = trace_loop.run(model, ids, [])
    noise = trace_loop.noise_edit(draw, encoded.subject)
    restored = [trace_loop.restore_edit(clean, "hook_embed", token) for token in encoded.subject]
    assert not torch.allclose(trace_loop.run(model, ids, [noise])[0], clean_logits, atol=1e-2)
    assert torch.equal(trace_loop.run(model, ids, [noise, *restored])[0], clean_logits)


def test_for_a_one_token_answer_the_last_state_of_the_last_token_recovers_the_clean_run(
    model: HookedTransformer,
) -> None:
    trace = causal_trace(model, FACTS["inside"], kinds=("resid",), samples=4)
    assert len(trace.settings["answer_tokens"]) == 1
    recovered = trace.data["resid"].isel(token=-1, layer=-1)
    np.testing.assert_allclose(recovered.values, trace.clean, rtol=1e-5)
    assert np.ptp(trace.corrupted.values) > 0


def test_a_window_over_all_layers_is_the_same_window_wherever_it_is_centred(
    model: HookedTransformer,
) -> None:
    wide = causal_trace(model, FACTS["start"], kinds=("mlp",), samples=2, window=100)
    values = wide.data["mlp"].values
    np.testing.assert_array_equal(values, np.broadcast_to(values[:, :, :1], values.shape))


def test_without_noise_every_cell_equals_the_clean_run(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACTS["start"], noise=0.0, samples=2)
    np.testing.assert_allclose(trace.corrupted.values, trace.clean, rtol=1e-5)
    for kind in KINDS:
        np.testing.assert_allclose(trace.data[kind].values, trace.clean, rtol=1e-5)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another(model: HookedTransformer) -> None:
    first, again, other = (causal_trace(model, FACTS["start"], samples=3, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert (first.corrupted != other.corrupted).all()


def test_no_global_random_state_is_touched(model: HookedTransformer) -> None:
    before = torch.get_rng_state()
    causal_trace(model, FACTS["start"], kinds=("mlp",), samples=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [2, 7, 1000])
def test_the_batch_size_changes_no_value(model: HookedTransformer, batch_size: int) -> None:
    whole = causal_trace(model, FACTS["start"], samples=5)
    split = causal_trace(model, FACTS["start"], samples=5, batch_size=batch_size)
    for kind in KINDS:
        np.testing.assert_allclose(split.data[kind].values, whole.data[kind].values, atol=1e-6)


def test_more_samples_keep_the_first_draws(model: HookedTransformer) -> None:
    few, many = (causal_trace(model, FACTS["start"], kinds=("resid",), samples=count) for count in (2, 4))
    np.testing.assert_allclose(many.data["resid"].values[:2], few.data["resid"].values, atol=1e-6)


def test_a_multi_token_answer_is_scored_whole_and_is_no_grid_column(model: HookedTransformer) -> None:
    one = causal_trace(
        model, FACTS["start"], kinds=("resid",), samples=2, metric="logprob", answer=" trumpet"
    )
    two = causal_trace(
        model, FACTS["start"], kinds=("resid",), samples=2, metric="logprob", answer=" trumpet too"
    )
    assert len(two.settings["answer_tokens"]) == 2
    assert two.data.sizes == one.data.sizes
    assert two.clean < one.clean
    prob = causal_trace(model, FACTS["start"], kinds=("resid",), samples=2, answer=" trumpet too")
    np.testing.assert_allclose(np.log(prob.data["resid"]), two.data["resid"], atol=1e-4)


def test_predicted_traces_the_models_own_top_token(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACTS["start"], kinds=("resid",), samples=1, answer="predicted")
    ids = encode_fact(model, FACTS["start"], target="").ids[None]
    with torch.no_grad():
        top = model(ids)[0, -1].softmax(-1).max(-1)
    assert trace.settings["answer_tokens"] == [int(top.indices)]
    assert trace.clean == pytest.approx(float(top.values), abs=1e-6)
    assert trace.knows
    assert trace.settings["answer_source"] == "predicted"


def test_facts_that_the_model_does_not_know_are_flagged(model: HookedTransformer) -> None:
    predicted = causal_trace(model, FACTS["start"], kinds=("resid",), samples=1, answer="predicted")
    trace = causal_trace(model, FACTS["start"], kinds=("resid",), samples=1)
    assert trace.settings["answer_tokens"] != predicted.settings["answer_tokens"]
    assert not trace.knows


def test_the_model_is_left_as_it_was_also_after_a_failure(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    causal_trace(tiny_model, FACTS["start"], samples=2)
    huge = torch.full((1, 2, tiny_model.cfg.d_model), 3e38)
    with pytest.raises(WorkError, match="NaN or infinite"):
        causal_trace(tiny_model, FACTS["start"], noise=huge)
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_model.state_dict().items())


def test_a_bf16_model_gives_nearly_the_same_effects(tiny_model: HookedTransformer) -> None:
    exact = causal_trace(tiny_model, FACTS["start"], samples=3, metric="logprob", sigma=0.1)
    rough = causal_trace(
        tiny_model.to(torch.bfloat16), FACTS["start"], samples=3, metric="logprob", sigma=0.1
    )
    np.testing.assert_allclose(rough.data["mlp"].values, exact.data["mlp"].values, atol=0.3)
    assert rough.provenance["dtype"] == "bfloat16"


def test_the_corruption_object_says_the_same_as_its_short_form(model: HookedTransformer) -> None:
    short = causal_trace(model, FACTS["start"], kinds=("mlp",), samples=2, noise=2.0, sigma=0.5)
    long = causal_trace(model, FACTS["start"], kinds=("mlp",), samples=2, corruption=GaussianNoise(2.0, 0.5))
    assert short == long
    with pytest.raises(InputError, match="corruption: it already says the noise"):
        causal_trace(model, FACTS["start"], corruption=GaussianNoise(), sigma=0.5)


def test_names_axes_and_provenance_are_complete(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACTS["inside"], kinds=("mlp", "attn"), samples=2, seed=9, prepend_bos=True)
    assert list(trace.data.data_vars) == ["mlp", "attn"]
    assert trace.data["mlp"].dims == ("sample", "token", "layer")
    assert trace.data["token_str"].values[0] == "<|endoftext|>"
    assert trace.data["role"].values[-1] == "last prompt token"
    assert trace.corrupted.dims == ("sample",)
    record = trace.provenance
    assert len(record["fingerprint"]) == 64
    assert record["versions"]["torch"] == torch.__version__
    expected = {
        "seed": 9,
        "samples": 2,
        "metric": "prob",
        "window": 1,
        "prepend_bos": True,
        "answer": " trumpet",
    }
    assert expected.items() <= record["settings"].items()
    assert record["settings"]["noise"]["sigma_source"] == "200 packaged reference subjects"
    assert Fact.from_dict(record["settings"]["fact"]) == FACTS["inside"]


def test_the_window_is_that_of_the_formula() -> None:
    for n_layers in (1, 3, 12, 48):
        for width in (1, 2, 5, 10):
            for layer in range(n_layers):
                assert list(window_layers(layer, width, n_layers)) == trace_loop.window(
                    layer, width, n_layers
                )
    assert [default_window(n) for n in (1, 6, 12, 24, 48, 96)] == [1, 1, 2, 5, 10, 10]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 0}, RangeError, r"samples: expected a whole number of at least 1, got 0"),
        ({"samples": 2.5}, RangeError, r"samples: .* got 2\.5"),
        ({"window": 0}, RangeError, "window: expected a whole number of at least 1, got 0"),
        ({"batch_size": 0}, RangeError, "batch_size: expected"),
        (
            {"noise": -1.0},
            RangeError,
            r"noise \(multiple of sigma\): expected a finite number of 0 or more, got -1",
        ),
        ({"noise": float("nan")}, RangeError, "noise"),
        ({"noise": "3"}, InputError, "noise: expected a number or a tensor of draws, got str"),
        ({"sigma": -0.1}, RangeError, "sigma: expected a finite number"),
        ({"kinds": ("resid", "head")}, InputError, "kinds: expected one or more .* resid, mlp, attn"),
        ({"kinds": ()}, InputError, "kinds"),
        ({"kinds": "resid"}, InputError, "kinds: .* in a tuple, got 'resid'"),
        ({"metric": "accuracy"}, InputError, "metric: expected one of prob, logprob, .* got 'accuracy'"),
        ({"answer": " "}, TextError, "answer: expected the continuation"),
        (
            {"noise": torch.zeros(2, 5, 32)},
            InputError,
            r"draws\): expected \[sample, 2, 32\] .* got shape \[2, 5, 32\]",
        ),
        ({"noise": torch.zeros(2, 32)}, InputError, r"expected a tensor \[sample, subject_token, d_model\]"),
        ({"noise": torch.full((1, 2, 32), torch.nan)}, InputError, "expected finite numbers"),
    ],
)
def test_bad_options_are_named(
    model: HookedTransformer, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        causal_trace(model, FACTS["start"], **options)  # type: ignore[arg-type]


def test_bad_facts_are_refused(model: HookedTransformer) -> None:
    with pytest.raises(TextError, match="too long"):
        causal_trace(model, Fact("{}" + " the" * 70, "Paris", " x"))
    with pytest.raises(TextError, match="straddles"):
        causal_trace(model, Fact("{} plays the trum", "Miles Davis", "pet"))
    full = Fact("{}" + " the" * 63, "Paris", " x")
    with pytest.raises(TextError, match="64 tokens leave no room"):
        causal_trace(model, full, answer="predicted")


@pytest.mark.parametrize("name", ["embed.W_E", "blocks.1.mlp.W_out"])
def test_a_model_with_nan_weights_is_refused(tiny_model: HookedTransformer, name: str) -> None:
    with torch.no_grad():
        dict(tiny_model.named_parameters())[name].fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        causal_trace(tiny_model, FACTS["start"])


def test_progress_is_silent_unless_asked_for(
    model: HookedTransformer, capfd: pytest.CaptureFixture[str]
) -> None:
    causal_trace(model, FACTS["start"], kinds=("mlp",), samples=1)
    assert capfd.readouterr() == ("", "")
    causal_trace(model, FACTS["start"], kinds=("mlp",), samples=1, progress=True)
    assert capfd.readouterr().out == ""


def test_a_processed_model_may_be_traced(model: HookedTransformer) -> None:
    processed = copy.deepcopy(model)
    processed.load_and_process_state_dict(processed.state_dict(), fold_ln=False, center_unembed=True)
    trace = causal_trace(processed, FACTS["start"], kinds=("mlp",), samples=2, sigma=0.1)
    plain = causal_trace(model, FACTS["start"], kinds=("mlp",), samples=2, sigma=0.1)
    np.testing.assert_allclose(trace.data["mlp"].values, plain.data["mlp"].values, atol=1e-4)
