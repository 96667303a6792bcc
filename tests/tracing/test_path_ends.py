"""Ends of paths that cannot be, and other bad input of path patching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.tracing.path_ends import Receiver
from mechstyle.tracing.path_patching import path_patching

Models = Callable[..., HookedTransformer]
CLEAN = "The instrument of Miles Davis is the"
LOGITS = (Receiver(None, "logits"),)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"receivers": ()}, InputError, r"receivers: expected one or more Receiver in .*, got \(\)"),
        ({"receivers": LOGITS[0]}, InputError, "receivers: expected one or more Receiver in .*, got Rec"),
        ({"receivers": ["q"]}, InputError, "receivers: expected a Receiver, got 'q'"),
        ({"receivers": LOGITS * 2}, InputError, "receivers: expected different ones, got logits twice"),
        ({"receivers": (Receiver(3, "mlp"),)}, RangeError, "receivers: layer must be an integer from 0"),
        ({"receivers": (Receiver(1, "q", 4),)}, RangeError, "receivers: head must be an integer from 0 to 3"),
        ({"receivers": (Receiver(1, "k", 2),)}, RangeError, "since the model has 2 key and value heads"),
        ({"senders": ()}, InputError, "senders: expected one or more different ones"),
        ({"senders": "heads"}, InputError, "senders: expected one or more different ones"),
        ({"senders": ("attn",)}, InputError, r"senders: expected .*, got \('attn',\)"),
        ({"direction": "both"}, InputError, "direction: expected 'denoising' or 'noising', got 'both'"),
        ({"through_mlps": "yes"}, InputError, "through_mlps: expected True or False, got 'yes'"),
        ({"batch_size": 0}, RangeError, "batch_size: expected a whole number of 1 or more, got 0"),
        ({"engine": "fast"}, InputError, "engine: expected 'auto', 'resume' or 'whole', got 'fast'"),
        ({"tokens": {"far": [7]}}, RangeError, "tokens: 'far' expected indices from 0 to 6"),
        ({"corrupted": "The instrument of Miles is the"}, TextError, "corrupted: expected 7 tokens, as"),
        ({"corrupted": CLEAN}, TextError, "corrupted: expected another prompt than the clean one"),
    ],
)  # fmt: skip
def test_bad_input_is_named(
    architectures: Models, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {
        "clean": CLEAN,
        "corrupted": "The instrument of Bill Evans is the",
        "receivers": LOGITS,
        **options,
    }
    with pytest.raises(error, match=message):
        path_patching(architectures("llama-gqa"), answer=" trumpet", prepend_bos=False, **given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((1, "z", 0), InputError, "Receiver.kind: expected one of q, k, v, mlp, resid, logits, got 'z'"),
        ((1, "q"), InputError, "Receiver.head: expected a number for 'q', got None"),
        ((1, "mlp", 0), InputError, "Receiver.head: expected None for 'mlp', got 0"),
        ((None, "resid"), InputError, "Receiver.layer: expected a number for 'resid', got None"),
        ((2, "logits"), InputError, "Receiver.layer: expected None for 'logits', got 2"),
        ((-1, "mlp"), RangeError, "Receiver.layer: expected a whole number of 0 or more, got -1"),
        ((1, "q", True), RangeError, "Receiver.head: expected a whole number of 0 or more, got True"),
    ],
)
def test_a_receiver_that_cannot_be_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Receiver(*given)
