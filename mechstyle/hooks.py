"""Hooks that never fire: TransformerLens passes over some in silence, so a run's hooks can be counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.runs import Hook

__all__ = ["counted"]

SWITCHES: Final = MappingProxyType(
    {
        "attn.hook_result": "set_use_attn_result",
        "hook_q_input": "set_use_split_qkv_input",
        "hook_k_input": "set_use_split_qkv_input",
        "hook_v_input": "set_use_split_qkv_input",
        "hook_mlp_in": "set_use_hook_mlp_in",
        "hook_attn_in": "set_use_attn_in",
    }
)
"""Ends of hook names -> the model's method that switches these hooks on; they are off by default."""


def counted(hooks: Sequence[Hook]) -> tuple[list[Hook], Callable[[], None]]:
    """The same hooks, and a check to call after the run, which says which of them never fired.

    ``TransformerBridge`` ignores names that it does not know, and both backends ignore hooks that are
    switched off. A hook that fires in some of several runs has fired. Hooks in layers that a run does not
    reach cannot fire: leave them out.

    Args:
        hooks: (name, function) pairs; both are called as before.

    Raises:
        InputError: by the check, naming the hooks that did not fire and what to do about it.

    Example:
        >>> wrapped, check = counted([("blocks.0.hook_mlp_out", function)])
        >>> _ = logits(model, ids, hooks=wrapped)
        >>> check()
    """
    silent = dict(enumerate(name for name, _ in hooks))

    def counting(index: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(state: Any, hook: Any) -> Any:
            silent.pop(index, None)
            return function(state, hook=hook)

        return called

    def check() -> None:
        if silent:
            told = "; ".join(f"{name!r} ({_remedy(name)})" for name in dict.fromkeys(silent.values()))
            raise InputError(f"hooks: expected every hook to fire, but these did not: {told}.")

    return [(name, counting(index, function)) for index, (name, function) in enumerate(hooks)], check


def _remedy(name: str) -> str:
    for end, switch in SWITCHES.items():
        if name.endswith(end):
            return f"switch it on: model.{switch}(True)"
    return "the model has no such hook, or did not run that far; model.hook_dict lists the hooks"
