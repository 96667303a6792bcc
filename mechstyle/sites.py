"""Places in a model: ``Site(layer, kind)`` <-> hook name <-> parameter name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from typing import Final, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, RangeError

__all__ = ["Kind", "Site", "by_position", "check_layer", "parse_hook"]

Kind = Literal["resid", "mlp", "attn", "key", "embed", "z", "q", "k", "v", "pattern"]

_HOOKS: Final = {
    "resid": "blocks.{layer}.hook_resid_post",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "attn": "blocks.{layer}.hook_attn_out",
    "key": "blocks.{layer}.mlp.hook_post",
    "embed": "hook_embed",
    "z": "blocks.{layer}.attn.hook_z",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "pattern": "blocks.{layer}.attn.hook_pattern",
}
_HEADS_FIRST: Final = ("pattern",)
_WRITERS: Final = {
    "mlp": ("blocks.{layer}.mlp.W_out", "blocks.{layer}.mlp.b_out"),
    "attn": ("blocks.{layer}.attn.W_O", "blocks.{layer}.attn.b_O"),
    "embed": ("embed.W_E", None),
}


@dataclass(frozen=True, order=True)
class Site:
    """One kind of state at one layer.

    Kinds: ``resid`` (residual stream after the block), ``mlp`` and ``attn`` (what each adds to it), ``key``
    (the MLP's neurons, which ``W_out`` reads), ``embed`` (token embeddings; the layer is 0), ``q``, ``k`` and
    ``v`` (queries, keys and values of the heads), ``pattern`` (how much each query attends to each key) and
    ``z`` (what the heads take in by it, which ``W_O`` reads). Under grouped queries ``k`` and ``v`` have one
    head a group.

    Raises:
        InputError: the kind is unknown.
        RangeError: the layer is negative, or not 0 for ``embed``.

    Example:
        >>> Site(4, "mlp").hook, Site(4, "mlp").parameter
        ('blocks.4.hook_mlp_out', 'blocks.4.mlp.W_out')
    """

    layer: int
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"Site.kind must be one of {', '.join(get_args(Kind))}; {self.kind!r} came.")
        if self.layer < 0 or (self.kind == "embed" and self.layer != 0):
            wanted = "0, because embeddings have no layer" if self.kind == "embed" else "0 or more"
            raise RangeError(f"Site.layer must be {wanted}; {self.layer} came.")

    @property
    def hook(self) -> str:
        """The hook name in TransformerLens."""
        return _HOOKS[self.kind].format(layer=self.layer)

    @property
    def parameter(self) -> str:
        """The weight that writes this state: ``mlp`` and ``key`` share ``W_out``.

        Raises:
            InputError: no single weight writes it (``resid``, and what is inside of attention).
        """
        return self._writer()[0].format(layer=self.layer)

    @property
    def bias(self) -> str | None:
        """The bias added with the weight; None where there is none.

        Raises:
            InputError: no single weight writes it (``resid``, and what is inside of attention).
        """
        name = self._writer()[1]
        return None if name is None else name.format(layer=self.layer)

    def _writer(self) -> tuple[str, str | None]:
        kind = "mlp" if self.kind == "key" else self.kind
        if kind not in _WRITERS:
            known = ", ".join((*_WRITERS, "key"))
            raise InputError(
                f"no single weight belongs to a {self.kind!r} site; kinds that have one: {known}."
            )
        return _WRITERS[kind]


def by_position(kind: Kind, state: Tensor) -> Float[Tensor, "row pos *rest"]:
    """A view of a state with positions as the second axis, where patterns have heads.

    Example:
        >>> by_position("pattern", torch.zeros(1, 12, 5, 7)).shape
        torch.Size([1, 5, 12, 7])
    """
    return state.transpose(1, 2) if kind in _HEADS_FIRST else state


def check_layer(layer: int, n_layers: int, *, name: str = "layer") -> int:
    """Return the layer, or say why it is none of the model's; negative numbers do not count from the end.

    Raises:
        RangeError: the layer is not an integer from 0 to ``n_layers - 1``.

    Example:
        >>> check_layer(4, 12)
        4
    """
    if isinstance(layer, bool) or not isinstance(layer, Integral) or not 0 <= layer < n_layers:
        raise RangeError(
            f"{name} must be an integer from 0 to {n_layers - 1}, since the model has {n_layers} layers; "
            f"{layer!r} came."
        )
    return int(layer)


def parse_hook(hook: str) -> Site:
    """The site that a hook name belongs to: the inverse of ``Site.hook``.

    Raises:
        InputError: no kind of site has this hook.

    Example:
        >>> parse_hook("blocks.4.mlp.hook_post")
        Site(layer=4, kind='key')
    """
    for kind in get_args(Kind):
        pattern = re.escape(_HOOKS[kind]).replace(r"\{layer\}", "([0-9]+)")
        found = re.fullmatch(pattern, hook)
        if found:
            return Site(int(found.group(1)) if found.groups() else 0, kind)
    raise InputError(f"hook {hook!r} belongs to no kind of site; hooks look like {Site(0, 'mlp').hook!r}.")
