"""The two ends of a path: what sends a change, and whose input receives it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from mechstyle.errors import InputError, RangeError
from mechstyle.sites import Site, check_layer
from mechstyle.tracing.kinds import Index, count_of

__all__ = ["Place", "Receiver", "ReceiverKind", "Sender", "SenderKind", "places_of", "senders_of"]

ReceiverKind = Literal["q", "k", "v", "mlp", "resid", "logits"]
SenderKind = Literal["heads", "mlp"]
OF_HEADS: Final = ("q", "k", "v")
SENDERS: Final = get_args(SenderKind)


@dataclass(frozen=True)
class Receiver:
    """What a path leads to: an input that is set to what it becomes when the sender is changed.

    Attributes:
        layer: its layer; None for "logits".
        kind: "q", "k" and "v" are the query, key and value of one head; "mlp" is the input of an MLP; "resid"
            is the residual stream after a block; "logits" is the residual stream after the last one.
        head: the head of "q", "k" or "v"; under grouped queries "k" and "v" count key and value heads.

    Raises:
        InputError: an unknown kind, or a head or layer that the kind does not have.
        RangeError: a negative layer or head.

    Example:
        >>> Receiver(9, "q", head=6), Receiver(None, "logits")
        (Receiver(layer=9, kind='q', head=6), Receiver(layer=None, kind='logits', head=None))
    """

    layer: int | None
    kind: ReceiverKind
    head: int | None = None

    def __post_init__(self) -> None:
        known = get_args(ReceiverKind)
        if self.kind not in known:
            raise InputError(f"Receiver.kind: expected one of {', '.join(known)}, got {self.kind!r}.")
        for name, needed in (("layer", self.kind != "logits"), ("head", self.kind in OF_HEADS)):
            value = getattr(self, name)
            if (value is not None) != needed:
                wanted = "a number" if needed else "None"
                raise InputError(f"Receiver.{name}: expected {wanted} for {self.kind!r}, got {value!r}.")
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise RangeError(f"Receiver.{name}: expected a whole number of 0 or more, got {value!r}.")

    def __str__(self) -> str:
        at = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.kind}{at}" + ("" if self.head is None else f", head {self.head}")


@dataclass(frozen=True)
class Sender:
    """A head's output at all tokens of a set (`head` says which), or that of an MLP."""

    kind: SenderKind
    layer: int
    head: int | None = None


@dataclass(frozen=True)
class Place:
    """Where receivers sit: a hook, and which of its heads; None where it has no heads."""

    layer: int
    kind: Literal["q", "k", "v", "mlp", "resid"]
    heads: tuple[int, ...] | None

    @property
    def hook(self) -> str:
        """The hook name; an MLP's input is set by what the MLP makes of it, one position at a time."""
        return Site(self.layer, self.kind).hook

    @property
    def joins(self) -> int:
        """The first layer that must be run when this input has changed and nothing below has."""
        return self.layer if self.kind in OF_HEADS else self.layer + 1

    def hears(self, sender: Sender, *, parallel: bool) -> bool:
        """Whether there is a path from a sender to here past no other head.

        Args:
            parallel: the model's MLPs read what attention reads, and not its output.
        """
        if sender.layer != self.layer:
            return sender.layer < self.layer
        return self.kind == "resid" or (self.kind == "mlp" and sender.kind == "heads" and not parallel)


def senders_of(cfg: Any, kinds: Collection[SenderKind]) -> list[Sender]:
    """All senders of some kinds, in the order in which a run meets them.

    Raises:
        InputError: no kinds, an unknown one, or one twice.

    Example:
        >>> len(senders_of(model.cfg, ("heads", "mlp")))  # doctest: +SKIP
        70
    """
    listed = isinstance(kinds, Sequence) and not isinstance(kinds, str)
    if not listed or not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(SENDERS):
        raise InputError(
            f"senders: expected one or more different ones of {', '.join(SENDERS)} in a tuple, got {kinds!r}."
        )
    found = []
    for layer in range(int(cfg.n_layers)):
        if "heads" in kinds:
            found += [Sender("heads", layer, head) for head in range(int(cfg.n_heads))]
        if "mlp" in kinds:
            found.append(Sender("mlp", layer))
    return found


def places_of(cfg: Any, receivers: Sequence[Receiver]) -> tuple[Place, ...]:
    """The receivers by hook, those of the heads of one layer together, in the order of layers.

    Raises:
        InputError: no receivers, something else, or one twice.
        RangeError: the model has no such layer or head.

    Example:
        >>> places_of(model.cfg, [Receiver(4, "q", 0), Receiver(4, "q", 2)])  # doctest: +SKIP
        (Place(layer=4, kind='q', heads=(0, 2)),)
    """
    if not isinstance(receivers, Sequence) or not receivers:
        raise InputError(f"receivers: expected one or more Receiver in a sequence, got {receivers!r}.")
    heads: dict[tuple[int, Any], list[int]] = {}
    for receiver in receivers:
        if not isinstance(receiver, Receiver):
            raise InputError(f"receivers: expected a Receiver, got {receiver!r}.")
        if receivers.count(receiver) > 1:
            raise InputError(f"receivers: expected different ones, got {receiver} twice.")
        _check_head(cfg, receiver)
        if receiver.layer is None:
            layer, kind = int(cfg.n_layers) - 1, "resid"
        else:
            layer, kind = (
                check_layer(receiver.layer, int(cfg.n_layers), name="receivers: layer"),
                receiver.kind,
            )
        heads.setdefault((layer, kind), []).extend([] if receiver.head is None else [receiver.head])
    return tuple(
        Place(layer, kind, tuple(sorted(found)) if kind in OF_HEADS else None)
        for (layer, kind), found in sorted(heads.items(), key=lambda item: item[0][0])
    )


def _check_head(cfg: Any, receiver: Receiver) -> None:
    if receiver.head is None:
        return
    index: Index = "head" if receiver.kind == "q" else "kv_head"
    n_heads, grouped = count_of(cfg, index), count_of(cfg, index) < int(cfg.n_heads)
    if receiver.head >= n_heads:
        name = "key and value heads" if grouped else "heads"
        raise RangeError(
            f"receivers: head must be an integer from 0 to {n_heads - 1}, since the model has {n_heads} "
            f"{name}; {receiver.head} came."
        )
