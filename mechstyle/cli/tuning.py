"""The options that only some methods of editing have, and what those methods are called with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from mechstyle.editing.finetune_options import FinetuneOptions
    from mechstyle.editing.hparams import Hyperparameters
    from mechstyle.editing.target_options import TargetOptions

__all__ = [
    "L2",
    "ClampNorm",
    "CovarianceFile",
    "Epsilon",
    "KlFactor",
    "LearningRate",
    "Legacy",
    "Mode",
    "Mom2Weight",
    "NKeys",
    "NormConstraint",
    "Parameters",
    "Preserve",
    "Ridge",
    "Share",
    "Steps",
    "Template",
    "Threshold",
    "Tuning",
    "WeightDecay",
    "option",
]

CovarianceFile = Annotated[
    Path | None,
    typer.Option("--covariance", help="What mechstyle covariance wrote; measured when not given."),
]
NKeys = Annotated[
    int | None,
    typer.Option("--n-keys", min=1, help="Keys to measure when no covariance is given; 50,000."),
]
Legacy = Annotated[
    bool,
    typer.Option(
        "--legacy",
        help="As published: rome's inconsistent key, the contexts of memit, emmet and alphaedit (and its "
        "scales), ft's loss, the rule of neurons.",
    ),
]
Mom2Weight = Annotated[
    float | None,
    typer.Option("--mom2-weight", help="Of memit: how much the keys to preserve weigh; d_mlp."),
]
Ridge = Annotated[
    float | None, typer.Option("--ridge", help="Of emmet: 0, the default, writes each fact exactly.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Of alphaedit: largest eigenvalue that counts as small, in mean ones (0.2). Of neurons: share "
        "of the largest attribution (0.2). Of cache: cosine from which another prompt is the same.",
    ),
]
L2 = Annotated[float | None, typer.Option("--l2", help="Of alphaedit: weight of the size of the change.")]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Of the target's search, of fine-tuning, or of the gradients' way."),
]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Of the target's search or fine-tuning.")]
WeightDecay = Annotated[
    float | None, typer.Option("--weight-decay", help="Of the target's search or fine-tuning.")
]
KlFactor = Annotated[
    float | None,
    typer.Option("--kl-factor", help="Of the KL divergence from the model as it was, in search or tuning."),
]
ClampNorm = Annotated[
    float | None,
    typer.Option("--clamp-norm", help="Of the target's search: largest change, in norms of the output."),
]
NormConstraint = Annotated[
    float | None,
    typer.Option("--norm-constraint", help="Of ft-l: how far each weight may move; published 5e-5 to 2e-3."),
]
Parameters = Annotated[
    str | None,
    typer.Option("--parameters", help="Of ft: what is trained in each layer, with commas; mlp.W_out."),
]
Preserve = Annotated[
    int | None,
    typer.Option("--preserve", min=1, help="Of ft-kl: documents of --text that are to stay as they are; 32."),
]
Mode = Annotated[
    str | None, typer.Option("--mode", help="Of neurons: write (the default), suppress or amplify.")
]
Share = Annotated[
    float | None, typer.Option("--share", help="Of neurons: share of the phrasings that find them; 0.7.")
]
Epsilon = Annotated[
    float | None, typer.Option("--epsilon", help="Of cache: how often the model answers itself; 0.001.")
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template", help="Of in-context: the sentence for each fact, such as 'Imagine that {}. '."
    ),
]

_ZERO_IS_ONE: Final = {"mom2_weight": False, "ridge": True, "threshold": True, "l2": False}
"""Numbers that editors check only with a model at hand, and whether they may be 0."""
_KNOWN: Final = ("mom2_weight", "ridge", "threshold", "l2", "legacy")
"""Fields that a table of hyper-parameters has too."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was given of the options that belong to some methods only; None is not given."""

    covariance: Path | None = None
    text: str | None = None
    n_keys: int | None = None
    legacy: bool | None = None
    mom2_weight: float | None = None
    ridge: float | None = None
    threshold: float | None = None
    l2: float | None = None
    steps: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    kl_factor: float | None = None
    clamp_norm: float | None = None
    norm_constraint: float | None = None
    parameters: str | None = None
    preserve: int | None = None
    mode: str | None = None
    share: float | None = None
    epsilon: float | None = None
    template: str | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that have a value."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) is not None)

    def require_numbers(self, *, cosine: bool) -> None:
        """Refuse numbers that no model can take, before one is loaded.

        Args:
            cosine: the threshold is one, and may be below 0.

        Raises:
            RangeError: a number is out of range.
        """
        from mechstyle.editing.inputs import checked_ridge

        for name, zero in _ZERO_IS_ONE.items():
            value = getattr(self, name)
            if value is not None and not (cosine and name == "threshold"):
                hint = "; emmet writes without a ridge" if name == "mom2_weight" else ""
                checked_ridge(value, option(name), zero=zero, hint=hint)

    def filled(self, known: Hyperparameters | None) -> Tuning:
        """The same, with what a table says where nothing was given."""
        if known is None:
            return self
        return replace(self, **{name: getattr(known, name) for name in _KNOWN if name not in self.given})

    def target_options(self, base: TargetOptions) -> TargetOptions:
        """How the target is searched, where the method does it as ``base`` says.

        Raises:
            RangeError: a number is out of range.
        """
        return replace(base, **self._changed("steps", "lr", "weight_decay", "kl_factor", "clamp_norm"))

    def finetune_options(self, base: FinetuneOptions) -> FinetuneOptions:
        """How fine-tuning steps, where the method does it as ``base`` says.

        Raises:
            RangeError: a number is out of range.
        """
        changed = self._changed("steps", "lr", "weight_decay", "kl_factor", "norm_constraint")
        return replace(base, **changed, loss="as-published" if self.legacy else base.loss)

    def chosen(self, **names: str) -> dict[str, Any]:
        """Argument of an editor -> value, for the fields that were given."""
        return {name: getattr(self, field) for name, field in names.items() if field in self.given}

    def _changed(self, *names: str) -> dict[str, Any]:
        return self.chosen(**{name: name for name in names})


def option(field: str) -> str:
    """The name of a field on the command line.

    Example:
        >>> option("mom2_weight")
        '--mom2-weight'
    """
    return f"--{field.replace('_', '-')}"
