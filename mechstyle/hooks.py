"""Hooks of a run, of which TransformerLens passes over some in silence, and hooks that the model carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.models import HookedModel
    from mechstyle.runs import Hook

__all__ = ["counted", "hooks_by_place"]

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
BY_BACKENDS: Final = ("transformers.", "transformer_lens.model_bridge.")
"""Where a bridge has the hooks from that it puts on itself on its first run."""


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


def hooks_by_place(model: HookedModel) -> dict[str, list[Any]]:
    """The hooks that somebody has put on the model, by the name of their place; not those of backends.

    Example:
        >>> list(hooks_by_place(model))  # doctest: +SKIP
        ['blocks.1.hook_mlp_out']
    """
    modules: Any = model
    found: dict[str, list[Any]] = {}
    for name, part in modules.named_modules():
        kinds = (part._forward_pre_hooks, part._forward_hooks, part._backward_pre_hooks, part._backward_hooks)
        here = [[hook for hook in hooks.values() if _of_somebody(hook)] for hooks in kinds]
        if any(here):
            found[name] = here
    return found


def _of_somebody(hook: object) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith(BY_BACKENDS)
