"""Loading and export need no second copy of the weights: counted one tensor at a time, and measured."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from mechstyle.hf_convert import ARCHITECTURES, hf_from_hooked, hooked_config, hooked_from_hf
from mechstyle.hf_parity import require_layer_parity
from tests.checkpoints import KINDS, random_hf

MIB = 2**20


class OneAtATime(Mapping[str, Tensor]):
    """Tensors each made at its look-up; a look-up while an earlier one is alive is an error."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        self.made: list[weakref.ref[np.ndarray]] = []

    def __getitem__(self, name: str) -> Tensor:
        assert not [old for old in self.made if old() is not None], f"{name} read while another is held"
        array = self.arrays[name].copy()
        self.made.append(weakref.ref(array))
        return torch.from_numpy(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_is_let_go_before_the_next_one_is_read(kind: str) -> None:
    hf = random_hf(kind, 50)
    source = OneAtATime(hf.state_dict())
    row, cfg = ARCHITECTURES[hf.config.model_type], hooked_config(hf.config, name=kind)
    model = hooked_from_hf(source, row, cfg)
    assert len(source.made) == len(source)
    assert all(old() is None for old in source.made)
    memory = {weight.untyped_storage().data_ptr() for weight in hf.parameters()}
    assert not memory & {weight.untyped_storage().data_ptr() for weight in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_of_a_large_model_reads_the_tensors_of_one_layer_only(kind: str) -> None:
    hf = random_hf(kind, 50)
    row, cfg = ARCHITECTURES[hf.config.model_type], hooked_config(hf.config, name=kind)
    model = hooked_from_hf(hf.state_dict(), row, cfg)
    one_layer = {name: tensor for name, tensor in hf.state_dict().items() if ".1." not in name}
    one_layer = {name: tensor for name, tensor in one_layer.items() if ".2." not in name}
    assert len(one_layer) < len(hf.state_dict())
    require_layer_parity(model, one_layer, row, hf.config, name=kind)


def test_what_lies_alike_on_both_sides_is_shared_with_the_export() -> None:
    hf = random_hf("gpt2", 50)
    row, cfg = ARCHITECTURES["gpt2"], hooked_config(hf.config, name="gpt2")
    model = hooked_from_hf(hf.state_dict(), row, cfg)
    model.tokenizer = None
    out = hf_from_hooked(model, row)
    weight = out.transformer.h[1].mlp.c_proj.weight
    assert weight.data_ptr() == model.blocks[1].mlp.W_out.data_ptr()


MEASURE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
import mechstyle.models as models

def resident(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

def growth(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = resident("VmRSS")
    result = work()
    return result, resident("VmHWM") - before

models.FULL_CHECK_BYTES = 0
models.load_model("organism-m", dtype=torch.bfloat16)  # what is needed once
model, loading = growth(lambda: models.load_model(sys.argv[1], dtype=torch.bfloat16))
_, export = growth(lambda: models.export_hf(model, sys.argv[2]))
print(json.dumps({"loading": loading, "export": export}))
"""


@pytest.fixture
def large(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> tuple[Path, int, int, int]:
    """A Llama of 264 MiB in two files, and its bytes: in all, of one layer, of the largest tensor."""
    config = LlamaConfig(
        vocab_size=8192, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "in")
    tiny_tokenizer.save_pretrained(tmp_path / "in")
    shapes = ARCHITECTURES["llama"].shapes(config)
    generator = torch.Generator().manual_seed(0)
    numbers = {shape: 0.05 * torch.randn(shape, generator=generator) for shape in set(shapes.values())}
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for place, (name, shape) in enumerate(shapes.items()):
        halves[place % 2][name] = numbers[shape].to(torch.bfloat16)
    for place, half in enumerate(halves):
        save_file(half, tmp_path / f"in/model-{place}.safetensors", metadata={"format": "pt"})
    places = {name: f"model-{place}.safetensors" for place, half in enumerate(halves) for name in half}
    index = json.dumps({"metadata": {}, "weight_map": places})
    (tmp_path / "in/model.safetensors.index.json").write_text(index)
    sizes = {name: 2 * shape.numel() for name, shape in shapes.items()}
    layer = sum(size for name, size in sizes.items() if ".layers.3." in name)
    return tmp_path / "in", sum(sizes.values()), layer, max(sizes.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc, which only Linux has")
def test_loading_needs_the_models_own_size_and_one_layer_and_export_one_copy(
    large: tuple[Path, int, int, int],
) -> None:
    folder, own, layer, tensor = large
    assert own > 250 * MIB
    command = [sys.executable, "-c", MEASURE, str(folder), str(folder.parent / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = json.loads(done.stdout.splitlines()[-1])
    assert own <= peak["loading"] <= own + layer + tensor + 32 * MIB
    assert peak["export"] <= own + 32 * MIB
