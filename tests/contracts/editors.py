"""Every editor, small, with what it declares to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from mechstyle.editing.batch_methods import alphaedit, emmet, memit
from mechstyle.editing.finetune import FinetuneOptions, finetune
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.editing.methods import rome
from mechstyle.editing.neuron_edit import neuron_edit
from mechstyle.editing.target_options import TargetOptions
from mechstyle.facts import EditRequest, Fact

__all__ = ["EDITORS", "REQUESTS", "WEIGHT_EDITORS", "Contract"]

Editor = Callable[[Any, Sequence[EditRequest]], Any]

REQUESTS: Final = (
    EditRequest(
        Fact("The instrument of {} is the", "Miles Davis", " trumpet"),
        " guitar",
        paraphrases=("Miles Davis plays the",),
        neighborhood=(("The instrument of Bill Evans is the", " piano"),),
    ),
    EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy"),
)
CONTEXTS: Final = ("{}", "The day was long. {}")
FEW: Final = TargetOptions(steps=3, early_stop=0.0)
STEPS: Final = FinetuneOptions(steps=2)


@dataclass(frozen=True, eq=False)
class Contract:
    """How an editor is called, and what it may change.

    Args:
        editor: of the tiny models of the tests, with layers 0 to 2.
        parameters: those that it declares.
        many: it takes several requests at once.
        on_organism: the same method as one uses it on ``organism-m``, given layer 2's second moment.
        floor: least efficacy of five single edits there; None where the method does not work on this model.
    """

    editor: Editor
    parameters: tuple[str, ...]
    on_organism: Callable[[Mapping[int, Tensor], Sequence[str]], Editor]
    floor: float | None
    many: bool = True


def _out(*layers: int, kind: str = "mlp.W_out") -> tuple[str, ...]:
    return tuple(f"blocks.{layer}.{kind}" for layer in layers)


def _moments(width: int = 128) -> dict[int, Tensor]:
    """Second moments with small and large eigenvalues, the same for each layer."""
    generator = torch.Generator().manual_seed(5)
    keys = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
    keys *= torch.logspace(0, -2, width, dtype=torch.float64)
    return dict.fromkeys(range(3), keys.T @ keys / len(keys))


def _closed(call: Callable[..., Any], argument: str, layers: Sequence[int], **options: Any) -> Editor:
    return partial(
        call, covariance=_moments(), contexts=CONTEXTS, target_options=FEW, **{argument: layers}, **options
    )


def _organism(call: Callable[..., Any], argument: str, **options: Any) -> Callable[..., Editor]:
    def editor(covariance: Mapping[int, Tensor], contexts: Sequence[str]) -> Editor:
        return partial(call, covariance=covariance, contexts=contexts, **{argument: 2}, **options)

    return editor


def _plain(call: Callable[..., Any], **options: Any) -> Callable[..., Editor]:
    return lambda covariance, contexts: partial(call, **options)


EDITORS: Final[Mapping[str, Contract]] = MappingProxyType(
    {
        "rome": Contract(_closed(rome, "layer", [1]), _out(1), _organism(rome, "layer"), 0.6, many=False),
        "rome as published": Contract(
            _closed(rome, "layer", [1], legacy=True),
            _out(1),
            _organism(rome, "layer", legacy=True),
            0.6,
            many=False,
        ),
        "rome over two layers": Contract(
            _closed(rome, "layer", [0, 1]), _out(0, 1), _organism(rome, "layer"), 0.6, many=False
        ),
        "memit": Contract(
            _closed(memit, "layers", [0, 1]), _out(0, 1), _organism(memit, "layers", mom2_weight=50), 0.8
        ),
        "emmet": Contract(_closed(emmet, "layers", [0, 1]), _out(0, 1), _organism(emmet, "layers"), 0.8),
        "emmet one by one": Contract(
            _closed(emmet, "layers", [1], batch_size=1),
            _out(1),
            _organism(emmet, "layers", batch_size=1),
            0.8,
        ),
        "alphaedit": Contract(
            _closed(alphaedit, "layers", [0, 1]), _out(0, 1), _organism(alphaedit, "layers"), 0.8
        ),
        "finetune": Contract(
            partial(finetune, layers=[0, 2], options=STEPS), _out(0, 2), _plain(finetune, layers=0), 0.8
        ),
        "finetune of biases and attention": Contract(
            partial(finetune, layers=1, parameters=("mlp.b_out", "attn.W_Q"), options=STEPS),
            _out(1, kind="mlp.b_out") + _out(1, kind="attn.W_Q"),
            _plain(finetune, layers=0, parameters=("mlp.W_out", "mlp.b_out")),
            0.8,
        ),
        "finetune within bounds": Contract(
            partial(finetune, layers=1, options=FinetuneOptions(steps=2, norm_constraint=1e-3)),
            _out(1),
            _plain(finetune, layers=0, options=FinetuneOptions(norm_constraint=0.02)),
            0.6,
        ),
        "neurons": Contract(
            partial(neuron_edit, neurons=[(0, 3), (2, 5)]), _out(0, 2), _plain(neuron_edit), 0.6
        ),
        "neurons suppressed": Contract(
            partial(neuron_edit, neurons=[(1, 3)], mode="suppress"),
            _out(1),
            _plain(neuron_edit, mode="suppress"),
            None,  # it unsays the old object more than it says the new one: 3 of 12 facts of organism-m
        ),
        "cache": Contract(edit_cache, (), _plain(edit_cache), 1.0),
        "cache by likeness": Contract(
            partial(edit_cache, threshold=0.9, layer=1), (), _plain(edit_cache, threshold=0.95, layer=5), 1.0
        ),
        "in context": Contract(in_context_edit, (), _plain(in_context_edit), None),
    }
)
WEIGHT_EDITORS: Final = tuple(name for name, one in EDITORS.items() if one.parameters)
