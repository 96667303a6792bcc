"""Knowledge neurons: the theorem of integrated gradients, a plain loop, and a neuron that was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing.neurons import KnowledgeNeurons, knowledge_neurons
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
LONG = FACT.with_target(" trumpet too")
TEMPLATES = ("The instrument of {} is the", "The day was long. {} plays the")
Architectures = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> HookedTransformer:
    """The tiny model in fp64. Leave it as it is."""
    return load_model(tiny_folder, dtype=torch.float64)


def tokens(model: HookedTransformer, fact: Fact) -> tuple[list[int], int]:
    whole = model.tokenizer(fact.prompt + fact.target)["input_ids"]
    return whole, len(model.tokenizer(fact.prompt)["input_ids"])


def probability(
    model: HookedTransformer, fact: Fact, layer: int, put: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """P(answer), token by token, with a layer's neurons replaced at the last prompt token; and its own."""
    ids, n_prompt = tokens(model, fact)
    seen: list[Tensor] = []

    def hook(state: Tensor, hook: Any) -> Tensor:
        seen.append(state[0, n_prompt - 1].detach().clone())
        if put is not None:
            state = state.clone()
            state[0, n_prompt - 1] = put
        return state

    run = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", hook)])
    probabilities = run[0].softmax(-1)
    product = torch.ones((), dtype=run.dtype)
    for place in range(n_prompt, len(ids)):
        product = product * probabilities[place - 1, ids[place]]
    return product, seen[0]


def loop(model: HookedTransformer, fact: Fact, steps: int, offset: float) -> Tensor:
    """Integrated gradients of one prompt, one run at a time."""
    rows = []
    for layer in range(model.cfg.n_layers):
        _, observed = probability(model, fact, layer)
        total = torch.zeros_like(observed)
        for step in range(steps):
            put = (observed * (step + offset) / steps).requires_grad_(True)
            found, _ = probability(model, fact, layer, put)
            total += torch.autograd.grad(found, put)[0]
        rows.append(observed * total / steps)
    return torch.stack(rows).detach()


@contextmanager
def whole_runs(model: HookedTransformer) -> Iterator[None]:
    """A hook that does nothing makes every run a whole one."""
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda state, hook: state)]):
        yield


@pytest.mark.parametrize("fact", [FACT, LONG], ids=["one token", "several tokens"])
@pytest.mark.parametrize(("rule", "offset"), [("middle", 0.5), ("paper", 1.0), ("code", 0.0)])
def test_attributions_equal_a_loop_over_layers_steps_and_tokens(
    exact: HookedTransformer, fact: Fact, rule: Any, offset: float
) -> None:
    found = knowledge_neurons(exact, fact, steps=4, rule=rule)
    assert torch.allclose(found.attributions, loop(exact, fact, 4, offset), rtol=1e-9, atol=1e-15)
    own, _ = probability(exact, fact, 0)
    assert found.probabilities == pytest.approx((own.item(),), rel=1e-9)


def test_several_phrasings_give_the_mean_of_each_alone_in_batches_of_any_size(
    exact: HookedTransformer,
) -> None:
    phrased = [Fact(template, FACT.subject, FACT.target) for template in (FACT.template, *TEMPLATES)]
    alone = torch.stack([loop(exact, one, 3, 0.5) for one in phrased]).mean(0)
    for batch_size in (1, 2, 4, 100):
        found = knowledge_neurons(exact, FACT, templates=TEMPLATES, steps=3, batch_size=batch_size)
        assert torch.allclose(found.attributions, alone, rtol=1e-9, atol=1e-15)
    request = EditRequest(FACT, " guitar", phrasings=TEMPLATES)
    assert torch.equal(
        knowledge_neurons(exact, request, steps=3, batch_size=100).attributions, found.attributions
    )


def test_whole_runs_give_what_resumed_runs_give(exact: HookedTransformer) -> None:
    resumed = knowledge_neurons(exact, LONG, templates=TEMPLATES, steps=3)
    with whole_runs(exact):
        whole = knowledge_neurons(exact, LONG, templates=TEMPLATES, steps=3)
    assert torch.allclose(resumed.attributions, whole.attributions, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("fact", [FACT, LONG], ids=["one token", "several tokens"])
def test_the_attributions_of_a_layer_add_up_to_what_silencing_it_takes_away(
    exact: HookedTransformer, fact: Fact
) -> None:
    """Completeness (Sundararajan et al. 2017): exact in the limit, and an error of 1/steps² on the way."""
    errors = []
    for steps in (8, 16):
        found = knowledge_neurons(exact, fact, steps=steps).attributions.sum(-1)
        wanted = []
        for layer in range(exact.cfg.n_layers):
            full, observed = probability(exact, fact, layer)
            silent, _ = probability(exact, fact, layer, torch.zeros_like(observed))
            wanted.append(full - silent)
        errors.append((found - torch.stack(wanted).detach()).abs())
    size = torch.stack(wanted).detach().abs()
    assert bool((errors[1] < 0.01 * size).all())
    assert bool((errors[1] < 0.3 * errors[0]).all())


@pytest.mark.parametrize("kind", ["gptj", "neox", "llama", "phi"])
def test_completeness_holds_in_other_architectures(architectures: Architectures, kind: str) -> None:
    model = architectures(kind)
    found = knowledge_neurons(model, FACT, steps=48).attributions.sum(-1)
    for layer in range(model.cfg.n_layers):
        full, observed = probability(model, FACT, layer)
        silent, _ = probability(model, FACT, layer, torch.zeros_like(observed))
        assert float(found[layer]) == pytest.approx((full - silent).item(), rel=0.02, abs=1e-9)


def planted(model: HookedTransformer, layer: int, index: int) -> HookedTransformer:
    """Let one neuron alone, always on, carry the answer: its row is the answer's unembedding column."""
    answer = tokens(model, FACT)[0][-1]
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.W_out.zero_()
        model.blocks[layer].mlp.W_in[:, index] = 0.0
        model.blocks[layer].mlp.b_in[index] = 3.0
        model.blocks[layer].mlp.W_out[index] = model.unembed.W_U[:, answer]
    return model


@pytest.mark.parametrize(("layer", "index"), [(0, 5), (2, 127)])
def test_a_planted_neuron_is_found_and_no_other(
    tiny_model: HookedTransformer, layer: int, index: int
) -> None:
    found = knowledge_neurons(planted(tiny_model, layer, index), FACT, templates=TEMPLATES)
    (neuron,) = found.neurons
    assert (neuron.layer, neuron.index, neuron.share) == (layer, index, 1.0)
    assert neuron.attribution == float(found.attributions[layer, index]) > 0.003
    found.attributions[layer, index] = 0
    assert not found.attributions.any()


def test_neurons_reach_the_threshold_in_enough_phrasings(exact: HookedTransformer) -> None:
    phrased = [Fact(template, FACT.subject, FACT.target) for template in (FACT.template, *TEMPLATES)]
    each = torch.stack([knowledge_neurons(exact, one).attributions for one in phrased])
    passing = (each >= 0.4 * each.amax(dim=(1, 2), keepdim=True)).sum(0)
    for share, least in ((0.3, 1), (0.5, 2), (0.7, 3), (1.0, 3)):
        found = knowledge_neurons(exact, FACT, templates=TEMPLATES, threshold=0.4, share=share)
        assert {(n.layer, n.index) for n in found.neurons} == {
            tuple(place) for place in (passing >= least).nonzero().tolist()
        }
        sizes = [neuron.attribution for neuron in found.neurons]
        assert sizes == sorted(sizes, reverse=True)


def test_a_threshold_of_one_keeps_the_largest_alone(exact: HookedTransformer) -> None:
    found = knowledge_neurons(exact, FACT, threshold=1)
    (neuron,) = found.neurons
    assert neuron.attribution == float(found.attributions.max())


def test_a_share_that_is_a_round_number_of_phrasings_is_not_lost_to_rounding(
    exact: HookedTransformer,
) -> None:
    templates = [f"{'so ' * n}{{}} plays the" for n in range(1, 10)]
    found = knowledge_neurons(exact, FACT, templates=templates, steps=1, threshold=0.05)
    assert 0.7 in [round(neuron.share, 6) for neuron in found.neurons]


def test_a_fact_that_every_neuron_speaks_against_has_none(tiny_model: HookedTransformer) -> None:
    model = planted(tiny_model, 1, 7)
    with torch.no_grad():
        model.blocks[1].mlp.W_out[7] *= -1
    found = knowledge_neurons(model, FACT)
    assert found.neurons == ()
    assert float(found.attributions.min()) < 0


def test_the_result_names_its_model_settings_and_prompts(tiny_model: HookedTransformer) -> None:
    found = knowledge_neurons(tiny_model, FACT, templates=TEMPLATES[:1], steps=2, prepend_bos=True)
    assert isinstance(found, KnowledgeNeurons)
    assert found.fingerprint == found.provenance["fingerprint"]
    settings = found.provenance["settings"]
    assert settings["prompts"] == ["Miles Davis plays the", "The instrument of Miles Davis is the"]
    assert (settings["answer"], settings["steps"], settings["prepend_bos"]) == (" trumpet", 2, True)
    assert found.attributions.shape == (3, 128)
    assert len(found.probabilities) == 2


def test_a_bfloat16_model_finds_about_the_same(tiny_folder: Path) -> None:
    models = [load_model(tiny_folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    first, second = (knowledge_neurons(model, FACT).attributions.flatten() for model in models)
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) > 0.98


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, RangeError, "steps: expected a whole number of 1 or more, got 0"),
        ({"batch_size": True}, RangeError, "batch_size: expected a whole number of 1 or more, got True"),
        ({"threshold": 0}, RangeError, "threshold: expected a number above 0 and at most 1, got 0"),
        ({"threshold": "a"}, RangeError, "threshold: expected a number above 0 and at most 1, got 'a'"),
        ({"share": 1.5}, RangeError, "share: expected a number above 0 and at most 1, got 1.5"),
        ({"share": float("nan")}, RangeError, "share: expected a number above 0 and at most 1, got nan"),
        ({"rule": "left"}, InputError, "rule: expected one of middle, paper, code, got 'left'"),
        ({"templates": "{} is"}, InputError, "templates: expected a list of templates, got one str"),
        ({"templates": ["nobody is"]}, TextError, "exactly once"),
        ({"fact": "Miles"}, InputError, "fact: expected a Fact or an EditRequest, got a str"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named_before_anything_is_run(
    tiny_model: HookedTransformer, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with whole_runs(tiny_model):
        tiny_model.forward = None  # type: ignore[method-assign,assignment]
        with pytest.raises(error, match=words.replace(".", r"\.")):
            knowledge_neurons(tiny_model, **{"fact": FACT, **options})
