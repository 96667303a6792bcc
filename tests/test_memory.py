"""The memory that runs may take, on any device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.runs import default_memory


def test_a_device_that_tells_its_free_memory_gives_a_quarter_of_it_and_others_half_a_gibibyte(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_memory(tiny_model) == 2**29
    telling = SimpleNamespace(mem_get_info=lambda device: (400, 1000))
    monkeypatch.setattr(torch, "get_device_module", lambda device: telling)
    assert default_memory(tiny_model) == 100
