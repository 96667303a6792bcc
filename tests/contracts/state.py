"""All that a call could leave behind: in a model, and in the process."""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

__all__ = ["Wrapper", "differences", "everything", "forward_replaced", "made_peculiar"]

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

OWN = "mechstyle_"
"""Attributes of a model that are the library's own begin so; that of active edits is compared apart."""


def everything(model: Any) -> dict[str, object]:
    """The state of a model and of the process, by name, ready to be compared with a later one."""
    return {**_weights(model), **_modules(model), **_whole_model(model), **_process()}


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of what changed, appeared or went away."""
    missing = object()
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, missing) != after.get(name, missing)
    )


def made_peculiar(model: Any) -> None:
    """Give a model a state that nobody would set again by chance.

    Every second weight is frozen, one has a gradient of its own, and one block is in training mode.
    """
    for number, (_, weight) in enumerate(model.named_parameters()):
        weight.requires_grad_(number % 2 == 0)
    first = next(weight for _, weight in model.named_parameters() if weight.requires_grad)
    first.grad = torch.full_like(first, 0.125)
    model.eval()
    model.blocks[2].train()


@contextmanager
def forward_replaced(
    module: Any, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """A module that computes something else for the length of a block: no hook, so nobody can notice."""
    own = vars(module)  # bridges pass on what is set in the usual way
    own["forward"] = wrapped(module.forward)
    try:
        yield
    finally:
        del own["forward"]


def _weights(model: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"values of {name}"] = _bytes(tensor)
        found[f"memory of {name}"] = (id(tensor), tensor.data_ptr())
        found[f"requires_grad of {name}"] = tensor.requires_grad
        found[f"grad of {name}"] = None if tensor.grad is None else (id(tensor.grad), _bytes(tensor.grad))
        found[f"hooks of {name}"] = tuple((tensor._backward_hooks or {}).items())
    return found


def _modules(model: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, part in model.named_modules():
        own = vars(part)
        found[f"attributes of {name}"] = tuple(key for key in own if not key.startswith(OWN))
        found[f"mode of {name}"] = part.training
        for key in own:
            if key.endswith("hooks"):  # torch's dictionaries and TransformerLens' lists
                held = own[key]
                found[f"{key} of {name}"] = tuple(held.items() if isinstance(held, Mapping) else held)
        if "ctx" in own:
            found[f"ctx of {name}"] = copy.copy(own["ctx"])
    return found


def _whole_model(model: Any) -> dict[str, object]:
    tokenizer = model.tokenizer
    return {
        "cfg": copy.deepcopy(vars(model.cfg)),
        "context level": getattr(model, "context_level", None),
        "active edits": getattr(model, f"{OWN}active_edits", ()),
        "covered weights": {
            name: _bytes(weight) for name, weight in getattr(model, f"{OWN}active_base", {}).items()
        },
        "tokenizer": (id(tokenizer), tokenizer.backend_tokenizer.to_str()),
        "tokenizer's sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "tokenizer's special tokens": dict(tokenizer.special_tokens_map),
    }


def _process() -> dict[str, object]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch random numbers": _bytes(torch.get_rng_state()),
        "numpy random numbers": (name, np.asarray(keys).tobytes(), *rest),
        "python random numbers": random.getstate(),
        "torch threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matrix product precision": torch.get_float32_matmul_precision(),
        "hooks of all modules": tuple(
            tuple(held.items())
            for key, held in sorted(vars(torch.nn.modules.module).items())
            if key.startswith("_global") and key.endswith("hooks")
        ),
        "verbosity of transformers": transformers.logging.get_verbosity(),
        "progress bars of transformers": transformers.logging.is_progress_bar_enabled(),
        "environment": dict(os.environ),
        "warning filters": tuple(warnings.filters),
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
