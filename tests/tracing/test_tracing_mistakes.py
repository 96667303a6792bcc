"""Every wrong argument of every tracing function is told by its name, and changes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.path_ends import Receiver
from mechstyle.tracing.path_patching import path_patching
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.targets import Contrast
from mechstyle.tracing.trace_facts import trace_facts
from tests.contracts.state import differences, everything

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
OTHER = "The instrument of Bill Evans is the"
LONG = Fact("The day was long. " * 20 + "{} plays the", "Miles Davis", " trumpet")


@dataclass(frozen=True)
class Front:
    """A function with arguments that are right, and the names of those that it then does not use."""

    call: Callable[..., object]
    given: tuple[object, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the function has an argument of this name."""
        return name in inspect.signature(self.call).parameters and name not in self.unused


@dataclass(frozen=True)
class Mistake:
    """A wrong value, the error that it raises, and what the message says after the argument's name."""

    argument: str
    value: object
    error: type[Exception]
    says: str = ""
    named: str = ""


FRONTS = {
    "activation_patching": Front(activation_patching, (FACT, OTHER)),
    "causal_trace": Front(causal_trace, (FACT,)),
    "path_patching": Front(path_patching, (FACT, OTHER), {"receivers": [Receiver(None, "logits")]}),
    "attribution of a fact": Front(attribution_patching, (FACT,)),
    "attribution of prompts": Front(attribution_patching, (FACT, OTHER), unused=("corruption",)),
    "logit_lens": Front(logit_lens, (FACT,)),
    "saliency": Front(saliency, (FACT,)),
    "trace_facts": Front(trace_facts, ([FACT],), {"skip_unknown": False}),
}
MISTAKES = (
    Mistake("fact", "Miles Davis plays the", InputError, "expected a Fact, got str"),
    Mistake("fact", LONG, TextError, "too long", named="prompt"),
    Mistake("prompt", 3, InputError, "got int"),
    Mistake("prompt", " ", TextError, "expected text"),
    Mistake("prompt", LONG, TextError, "too long"),
    Mistake("facts", [], InputError, "at least one fact"),
    Mistake("facts", FACT, InputError, "a list of facts"),
    Mistake("facts", [FACT, "Paris"], InputError, "got str at place 1"),
    Mistake("clean", 3, InputError, "got int"),
    Mistake("corrupted", 3, InputError, "got int"),
    Mistake("corrupted", "Bill Evans plays the", TextError, "as many as the clean prompt has"),
    Mistake("corrupted", FACT.prompt, TextError, "another prompt"),
    Mistake("metric", "accuracy", InputError, "accuracy"),
    Mistake("metric", None, InputError, "None"),
    Mistake("metric", 3, InputError, "3"),
    Mistake("answer", "", TextError, "''"),
    Mistake("answer", 3, InputError, "3|int"),
    Mistake("answer_tokens", 0, RangeError, "at least 1"),
    Mistake("answer_tokens", 1.5, RangeError, "whole number"),
    Mistake("prepend_bos", "yes", InputError, "True, False or None"),
    Mistake("samples", 0, RangeError, "at least 1"),
    Mistake("samples", True, RangeError, "whole number"),
    Mistake("seed", 0.5, InputError, "whole number"),
    Mistake("window", 0, RangeError, "at least 1"),
    Mistake("window", 2.0, RangeError, "whole number"),
    Mistake("batch_size", 0, RangeError, "1|positive"),
    Mistake("kinds", "resid", InputError, "in a tuple"),
    Mistake("kinds", (), InputError, "one or more"),
    Mistake("kinds", ("resid", "resid"), InputError, "different"),
    Mistake("kinds", ("resid", "keys"), InputError, "keys"),
    Mistake("corruption", "noise", InputError, "noise"),
    Mistake("direction", "both", InputError, "both"),
    Mistake("engine", "fast", InputError, "fast"),
    Mistake("neuron_layer", 1, InputError, "neurons"),
    Mistake("neuron_layer", 99, InputError, ""),
    Mistake("tokens", {}, InputError, ""),
    Mistake("tokens", {"none": []}, InputError, "none"),
    Mistake("tokens", {"far": [99]}, InputError, "99"),
    Mistake("tokens", {"twice": [1, 1]}, InputError, "1"),
    Mistake("tokens", {"role": ["the subject"]}, InputError, "the subject"),
    Mistake("tokens", "last subject token", InputError, ""),
    Mistake("receivers", [], InputError, "one or more"),
    Mistake("receivers", ["logits"], InputError, "logits"),
    Mistake("receivers", [Receiver(0, "mlp"), Receiver(0, "mlp")], InputError, "twice"),
    Mistake("receivers", [Receiver(3, "resid")], RangeError, "3"),
    Mistake("receivers", [Receiver(0, "q", head=4)], RangeError, "4"),
    Mistake("senders", (), InputError, "one or more"),
    Mistake("senders", "heads", InputError, "heads"),
    Mistake("senders", ("q",), InputError, "q"),
    Mistake("through_mlps", 1, InputError, "True or False"),
    Mistake("method", "exact", InputError, "exact"),
    Mistake("steps", 0, RangeError, "1"),
    Mistake("baseline", "black", InputError, "black"),
    Mistake("top", 0, RangeError, ""),
    Mistake("top", 10**6, RangeError, ""),
    Mistake("states", "keys", InputError, "keys"),
    Mistake("states", (), InputError, "one or more"),
    Mistake("tracer", "causal_trace", InputError, ""),
)


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """The model and the process are afterwards as they were before."""
    before = everything(model)
    yield
    assert differences(before, everything(model)) == []


def called(model: Any, front: Front, argument: str | None = None, value: object = None) -> object:
    """The function with one argument replaced."""
    names = list(inspect.signature(front.call).parameters)[1:]
    given, options = dict(zip(names, front.given, strict=False)), dict(front.options)
    if argument is not None:
        (given if argument in given else options)[argument] = value
    return front.call(model, *given.values(), **options)


@pytest.mark.parametrize("name", FRONTS)
def test_a_wrong_argument_is_named(tiny_model: HookedTransformer, name: str) -> None:
    front = FRONTS[name]
    with unchanged(tiny_model):
        for mistake in MISTAKES:
            if front.takes(mistake.argument):
                named = f"(?s)^{mistake.named or mistake.argument}.*({mistake.says})"
                with pytest.raises(mistake.error, match=named):
                    called(tiny_model, front, mistake.argument, mistake.value)
                    pytest.fail(f"{mistake} went through")


@pytest.mark.parametrize("name", FRONTS)
def test_the_same_call_without_the_mistake_works(tiny_model: HookedTransformer, name: str) -> None:
    with unchanged(tiny_model):
        assert called(tiny_model, FRONTS[name]) is not None


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("weight", ["embed.W_E", "blocks.1.mlp.W_out", "unembed.W_U"])
def test_a_model_with_weights_that_are_not_finite_is_refused(
    tiny_model: HookedTransformer, name: str, weight: str
) -> None:
    with torch.no_grad():
        tiny_model.get_parameter(weight)[0, 0] = float("nan")
        tiny_model.get_parameter(weight)[:, 3] = float("nan")
    with unchanged(tiny_model), pytest.raises(ModelError, match="(?s)^model.*(NaN|finite)"):
        called(tiny_model, FRONTS[name])


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("model", [None, "organism-m", torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_named(name: str, model: object) -> None:
    with pytest.raises(ModelError, match="model: expected a HookedTransformer"):
        called(model, FRONTS[name])


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_traced(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("here")

    def tracer(model: Any, fact: Fact) -> Any:
        raise AssertionError("traced")

    with pytest.raises(InputError, match="file"):
        trace_facts(tiny_model, [FACT], tracer=tracer, folder=tmp_path / "file" / "traces")
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize("other", ["", 3, " trumpet"])
def test_a_contrast_needs_two_different_continuations(other: Any) -> None:
    with pytest.raises(TextError, match="Contrast"):
        Contrast(" trumpet", other)
