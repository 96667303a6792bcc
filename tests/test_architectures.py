"""Every architecture, both ways: Hugging Face's logits in, and the very same tensors out again."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mechstyle import hf_source
from mechstyle.errors import FileError, ModelError
from mechstyle.hf_convert import (
    ARCHITECTURES,
    hooked_config,
    hooked_from_hf,
    hooked_tensors,
    quiet_deprecation,
)
from mechstyle.hf_layouts import each_link
from mechstyle.hf_parity import require_layer_parity
from mechstyle.models import export_hf, fingerprint, list_models, load_model, parameter
from mechstyle.tokens import encode
from tests.checkpoints import KINDS, random_hf

ROPE = {"rope_type": "default", "rope_theta": 50.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "gptj, narrow MLP": ("gptj", {"n_inner": 48}),
    "gptj, large epsilon": ("gptj", {"layer_norm_epsilon": 0.1}),
    "gptj, all of each head turns": ("gptj", {"rotary_dim": 8}),
    "gptj, tied": ("gptj", {"tie_word_embeddings": True}),
    "neox, no biases in attention": ("neox", {"attention_bias": False}),
    "neox, other base, half of each head": (
        "neox",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
    ),
    "neox, one after the other": ("neox", {"use_parallel_residual": False}),
    "neox, tied": ("neox", {"tie_word_embeddings": True}),
    "neox, large epsilon": ("neox", {"layer_norm_eps": 0.1}),
    "neox, stretched": ("neox", {"rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.5}}),
    "llama, wide heads": ("llama", {"head_dim": 16}),
    "llama, biases in attention": ("llama", {"attention_bias": True}),
    "llama, large epsilon": ("llama", {"rms_norm_eps": 0.1}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, other base": ("llama", {"rope_parameters": ROPE}),
    "llama, stretched": ("llama", {"rope_parameters": LLAMA3}),
    "llama-gqa, one key head, narrow, biased": (
        "llama-gqa",
        {"num_key_value_heads": 1, "head_dim": 4, "attention_bias": True},
    ),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "mistral, wide heads, no groups": ("mistral", {"head_dim": 16, "num_key_value_heads": 4}),
    "qwen2, window from layer 1": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2, window unused": ("qwen2", {"use_sliding_window": False, "sliding_window": 5}),
    "qwen2, tied, other activation": (
        "qwen2",
        {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "qwen2, wide heads, no groups": ("qwen2", {"head_dim": 16, "num_key_value_heads": 4}),
    "phi, grouped": ("phi", {"num_key_value_heads": 2}),
    "phi, large epsilon": ("phi", {"layer_norm_eps": 0.1}),
    "phi, all of each head turns": ("phi", {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}}),
    "phi, tied": ("phi", {"tie_word_embeddings": True}),
}

Folder = tuple[PreTrainedModel, Path]


def ids_for(model: HookedTransformer) -> Tensor:
    return torch.randint(model.cfg.d_vocab, (3, 24), generator=torch.Generator().manual_seed(7))


def hf_logits(hf: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return hf(input_ids=ids, use_cache=False).logits


def require_same_logits(model: HookedTransformer, hf: PreTrainedModel) -> None:
    ids = ids_for(model)
    wanted = hf_logits(hf, ids)
    assert wanted.std() > 0.1
    torch.testing.assert_close(model(ids), wanted, atol=1e-5, rtol=0)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def saved(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, **how: Any) -> Path:
    hf.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def loaded(request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    """The model of the kind that the test names by ``indirect``."""
    return load_model(random_hf(request.param, len(tiny_tokenizer)), tokenizer=tiny_tokenizer)


# Loading and export


@pytest.mark.parametrize(("kind", "config"), SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_hugging_faces_and_the_export_is_the_checkpoint_bit_for_bit(
    kind: str, config: dict[str, Any], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer), seed=3, **config)
    folder = saved(hf, tiny_tokenizer, tmp_path / "in")
    model = load_model(folder)
    require_same_logits(model, hf)
    out = export_hf(model, tmp_path / "out")
    assert same(load_file(out / "model.safetensors"), load_file(folder / "model.safetensors"))
    again = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(hf_logits(again, ids_for(model)), hf_logits(hf, ids_for(model)))


@pytest.mark.parametrize("loaded", KINDS, indirect=True)
def test_an_export_loads_as_the_model_that_it_was(loaded: HookedTransformer, tmp_path: Path) -> None:
    again = load_model(export_hf(loaded, tmp_path / "out"))
    assert same(dict(again.named_parameters()), dict(loaded.named_parameters()))
    assert fingerprint(again) == fingerprint(loaded)
    assert torch.equal(again(ids_for(again)), loaded(ids_for(loaded)))


@pytest.mark.parametrize("loaded", KINDS, indirect=True)
def test_an_edited_model_is_exported_as_edited(loaded: HookedTransformer, tmp_path: Path) -> None:
    before = loaded(ids_for(loaded))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in ("blocks.1.mlp.W_out", "blocks.2.attn.W_O", "embed.W_E"):
            weight = parameter(loaded, name)
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    assert (loaded(ids_for(loaded)) - before).abs().max() > 0.1
    require_same_logits(loaded, AutoModelForCausalLM.from_pretrained(export_hf(loaded, tmp_path / "out")))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.bfloat16) for kind in KINDS), ("neox", torch.float16), ("mistral", torch.float64)],
)
def test_a_model_is_the_same_however_its_dtype_was_reached(
    kind: str, dtype: torch.dtype, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(random_hf(kind, len(tiny_tokenizer)), tiny_tokenizer, tmp_path)
    straight = load_model(folder, dtype=dtype, check_parity=False)
    checked = load_model(folder, dtype=dtype)
    assert straight.cfg.dtype == checked.cfg.dtype == dtype
    assert same(straight.state_dict(), checked.state_dict())
    assert torch.equal(straight(ids_for(straight)), checked(ids_for(checked)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_checkpoint_comes_back_as_it_was(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(random_hf(kind, len(tiny_tokenizer)).half(), tiny_tokenizer, tmp_path / "in")
    wanted = load_file(folder / "model.safetensors")
    out = export_hf(load_model(folder, dtype=torch.float16), tmp_path / "out")
    assert {weight.dtype for weight in wanted.values()} == {torch.float16}
    assert same(load_file(out / "model.safetensors"), wanted)
    whole = dict(load_model(folder).named_parameters())
    assert all(torch.equal(weight, weight.half().float()) for weight in whole.values())


# Files


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama-gqa"])
def folder(
    request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: Any
) -> Folder:
    """A model and its folder in one file. Do not change them."""
    hf = random_hf(request.param, len(tiny_tokenizer), seed=4)
    return hf, saved(hf, tiny_tokenizer, tmp_path_factory.mktemp("model"))


def with_weights(folder: Path, target: Path) -> dict[str, Tensor]:
    """A copy of the folder without the weights, and the weights."""
    target.mkdir()
    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    return load_file(folder / "model.safetensors")


def test_a_checkpoint_in_parts_loads_and_a_missing_part_is_named(
    folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf, whole = folder
    parts = saved(hf, tiny_tokenizer, tmp_path / "parts", max_shard_size="30KB")
    files = sorted(parts.glob("model-*.safetensors"))
    assert len(files) > 2
    assert fingerprint(load_model(parts)) == fingerprint(load_model(whole))
    files[1].unlink()
    with pytest.raises(FileError, match=f"lacks {files[1].name}, which model.safetensors.index.json names"):
        load_model(parts)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_load_in_one_file_and_in_parts(
    folder: Folder, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf, whole = folder
    weights = with_weights(whole, tmp_path / "bin")
    how = {"_use_new_zipfile_serialization": zipped}
    torch.save(dict(hf.state_dict()), tmp_path / "bin/pytorch_model.bin", **how)
    wanted = fingerprint(load_model(whole))
    assert fingerprint(load_model(tmp_path / "bin")) == wanted
    (tmp_path / "bin/pytorch_model.bin").unlink()
    half = len(weights) // 2
    places = {name: f"pytorch_model-{number >= half}.bin" for number, name in enumerate(weights)}
    for file in set(places.values()):
        part = {name: weights[name] for name in weights if places[name] == file}
        torch.save(part, tmp_path / "bin" / file, **how)
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "bin/pytorch_model.bin.index.json").write_text(json.dumps(index))
    monkeypatch.setattr("mechstyle.hf_files.REMAP_BYTES", 10_000)
    assert fingerprint(load_model(tmp_path / "bin")) == wanted
    (tmp_path / "bin/pytorch_model-True.bin").write_bytes(b"not torch")
    with pytest.raises(FileError, match=r"pytorch_model-True.bin is truncated or damaged"):
        load_model(tmp_path / "bin")


def test_pickled_code_is_not_run(folder: Folder, tmp_path: Path) -> None:
    with_weights(folder[1], tmp_path / "bin")
    torch.save({"lm_head.weight": tmp_path}, tmp_path / "bin/pytorch_model.bin")
    with pytest.raises(FileError, match=r"pytorch_model.bin is truncated or damaged"):
        load_model(tmp_path / "bin")


def test_files_of_a_base_model_load_where_embeddings_are_tied(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for kind in ("gpt2", "llama", "neox"):
        hf = random_hf(kind, len(tiny_tokenizer), tie_word_embeddings=True)
        whole = saved(hf, tiny_tokenizer, tmp_path / kind)
        weights = with_weights(whole, tmp_path / f"{kind}-base")
        prefix = f"{hf.base_model_prefix}."
        base = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        base.pop("lm_head.weight", None)
        save_file(base, tmp_path / f"{kind}-base/model.safetensors", metadata={"format": "pt"})
        require_same_logits(load_model(tmp_path / f"{kind}-base"), hf)


def test_a_base_model_without_an_unembedding_is_refused(folder: Folder, tmp_path: Path) -> None:
    hf, whole = folder
    weights = with_weights(whole, tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    weights.pop("lm_head.weight", None)
    weights.pop("embed_out.weight", None)
    save_file(weights, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError, match=r"lacks 1 of the model's weights, first 'lm_head.weight'"):
        load_model(tmp_path / "base")
    assert hf.config.model_type in config["model_type"]


def test_tied_weights_that_differ_in_the_files_stay_two(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_hf("qwen2", len(tiny_tokenizer), tie_word_embeddings=False)
    folder = saved(hf, tiny_tokenizer, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    require_same_logits(load_model(folder), hf)


def test_a_pythia_with_the_names_of_its_day_loads(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rope = {**ROPE, "partial_rotary_factor": 0.5}
    hf = random_hf("neox", len(tiny_tokenizer), rope_parameters=rope)
    whole = saved(hf, tiny_tokenizer, tmp_path / "new")
    weights = with_weights(whole, tmp_path / "old")
    config = json.loads((whole / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "old/config.json").write_text(json.dumps(config | {"rotary_pct": 0.5, "rotary_emb_base": 50}))
    weights["embed_out.weight"] = weights.pop("lm_head.weight", weights.get("embed_out.weight"))
    weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(weights, tmp_path / "old/model.safetensors", metadata={"format": "pt"})
    require_same_logits(load_model(tmp_path / "old"), hf)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Folder, tmp_path: Path) -> None:
    weights = with_weights(folder[1], tmp_path / "cut")
    name = next(
        name for name in weights if "1" in name and name.endswith("weight") and weights[name].ndim == 2
    )
    rows, columns = weights[name].shape
    weights[name] = weights[name][:-1].clone()
    save_file(weights, tmp_path / "cut/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError) as caught:
        load_model(tmp_path / "cut")
    assert f"{name!r} has shape [{rows - 1}, {columns}], and config.json asks for" in str(caught.value)
    assert f"[{rows}, {columns}]." in str(caught.value)


def test_a_hub_model_is_fetched_file_by_file_and_read_as_a_folder(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str], list[str]]] = []
    local = AutoConfig.from_pretrained

    def fetch(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, allow_patterns, ignore_patterns))
        return str(folder[1])

    monkeypatch.setattr(hf_source, "snapshot_download", fetch)
    monkeypatch.setattr(hf_source.AutoConfig, "from_pretrained", lambda _, **how: local(folder[1], **how))
    model = load_model("somebody/some-model")
    require_same_logits(model, folder[0])
    assert [(name, patterns[-1], left) for name, patterns, left in asked] == [
        ("somebody/some-model", "model*.safetensors", ["*/*"])
    ]


@pytest.mark.parametrize("kind", ["gptj", "llama-gqa"])
def test_an_embedded_model_of_any_architecture_is_listed(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer))
    folder = saved(hf, tiny_tokenizer, tmp_path / "some-model")
    monkeypatch.setattr("mechstyle.organisms.names", lambda: ["some-model"])
    monkeypatch.setattr("mechstyle.organisms.folder", lambda name: tmp_path / name)
    (info,) = list_models()
    assert (info.name, info.folder, info.n_layers, info.d_model) == ("some-model", folder, 3, 32)
    assert info.n_params == sum(weight.numel() for weight in hf.parameters())


# The prompt's beginning


def test_prompts_begin_with_bos_where_the_tokenizer_begins_texts_so(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    starting = copy.deepcopy(tiny_tokenizer)
    starting.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    hf = random_hf("llama", len(tiny_tokenizer))
    models = [load_model(hf, tokenizer=each) for each in (starting, tiny_tokenizer)]
    assert [model.cfg.default_prepend_bos for model in models] == [True, False]
    assert [model.cfg.tokenizer_prepends_bos for model in models] == [True, False]
    text = "Miles Davis plays the trumpet"
    plain = tiny_tokenizer.encode(text)
    assert [encode(model, text).ids.tolist() for model in models] == [[0, *plain], plain]
    again = load_model(export_hf(models[0], tmp_path / "out"))
    assert again.cfg.default_prepend_bos is True


# What is refused


REFUSED = {
    "linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
        r"rope_parameters .*'linear'.* are not supported: rope_type must be 'default' or 'llama3'",
    ),
    "yarn": (
        "qwen2",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0}},
        r"rope_parameters .*'yarn'.* are not supported",
    ),
    "Llama biases in the MLP": ("llama", {"mlp_bias": True}, "mlp_bias=true is not supported"),
    "Phi norms of queries": ("phi", {"qk_layernorm": True}, "qk_layernorm=true is not supported"),
    "activation": (
        "mistral",
        {"hidden_act": "mish"},
        "hidden_act 'mish' is not supported; supported are gelu",
    ),
    "GPT-J activation": ("gptj", {"activation_function": "mish"}, "activation_function 'mish' is not"),
    "odd rotary width": (
        "neox",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.4}},
        "rotary positions need an even number of dimensions of each head; 3 came",
    ),
    "partly turned Llama": (
        "llama",
        {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor must be 1 for llama models; 0.5 came",
    ),
}


@pytest.mark.parametrize(("kind", "config", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_configs_that_cannot_be_converted_are_refused_by_name(
    kind: str, config: dict[str, Any], message: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer), **config)
    with pytest.raises(ModelError, match=message):
        load_model(hf, tokenizer=tiny_tokenizer)
    folder = saved(hf, tiny_tokenizer, tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_quantized_and_offloaded_models_are_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_hf("llama", len(tiny_tokenizer))
    folder = saved(hf, tiny_tokenizer, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantization_config is not supported: weights must be plain"):
        load_model(folder)
    with pytest.raises(
        ModelError, match=r"embed.W_E must be plain numbers in memory, not torch.float32 on meta"
    ):
        load_model(hf.to("meta"), tokenizer=tiny_tokenizer)


NO_PLACE = {
    "Llama's output bias": ("llama", "blocks.1.mlp.b_out", "blocks.1.mlp.b_out is not zero, and LlamaFor"),
    "Llama's input bias": ("llama-gqa", "blocks.0.mlp.b_in", "blocks.0.mlp.b_in is not zero, and LlamaFor"),
    "Mistral's attention bias": ("mistral", "blocks.2.attn.b_O", "attn.b_O is not zero, and MistralFor"),
    "Mistral's key bias": ("mistral", "blocks.2.attn._b_K", "attn._b_K is not zero, and MistralFor"),
    "Qwen2's output bias": ("qwen2", "blocks.0.attn.b_O", "attn.b_O is not zero, and Qwen2For"),
    "GPT-J's query bias": ("gptj", "blocks.0.attn.b_Q", "attn.b_Q is not zero, and GPTJFor"),
    "NeoX's unembedding bias": ("neox", "unembed.b_U", "unembed.b_U is not zero, and GPTNeoXFor"),
    "GPT-J's second norm": ("gptj", "blocks.1.ln2.w", r"ln1.w and blocks.1.ln2.w differ, and GPTJFor.* one"),
    "Phi's second norm": ("phi", "blocks.1.ln2.b", r"ln1.b and blocks.1.ln2.b differ, and PhiFor.* one"),
}


@pytest.mark.parametrize(("loaded", "name", "message"), NO_PLACE.values(), ids=NO_PLACE, indirect=["loaded"])
def test_export_refuses_an_edit_that_the_checkpoint_cannot_hold(
    loaded: HookedTransformer, name: str, message: str, tmp_path: Path
) -> None:
    with torch.no_grad():
        parameter(loaded, name).view(-1)[0] += 1.0
    with pytest.raises(ModelError, match=message):
        export_hf(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loaded", ["llama", "llama-gqa"], indirect=True)
def test_a_llama_that_was_given_attention_biases_is_exported_with_them(
    loaded: HookedTransformer, tmp_path: Path
) -> None:
    with torch.no_grad():
        parameter(loaded, "blocks.1.attn.b_Q")[2] += 1.0
        parameter(loaded, "blocks.2.attn.b_O")[3] += 1.0
    again = AutoModelForCausalLM.from_pretrained(export_hf(loaded, tmp_path / "out"))
    assert again.config.attention_bias is True
    require_same_logits(loaded, again)


@pytest.mark.parametrize(
    ("loaded", "field", "value", "message"),
    [
        ("gptj", "rotary_base", 500, "its rotary_base is 500, and such a checkpoint would say 10000"),
        ("llama", "attn_scores_soft_cap", 5.0, "its attn_scores_soft_cap is 5.0, and such a checkpoint"),
        ("gpt2", "parallel_attn_mlp", True, "its parallel_attn_mlp is True, and such a checkpoint would"),
    ],
    indirect=["loaded"],
)
def test_export_refuses_a_config_that_the_checkpoint_cannot_say(
    loaded: HookedTransformer, field: str, value: Any, message: str, tmp_path: Path
) -> None:
    setattr(loaded.cfg, field, value)
    with pytest.raises(ModelError, match=message):
        export_hf(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_made_elsewhere_is_exported_if_it_is_of_the_architecture(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = random_hf("mistral", len(tiny_tokenizer), num_key_value_heads=4).config
    cfg = hooked_config(config, name="elsewhere")
    cfg.n_key_value_heads, cfg.init_weights = 4, True  # grouped by one, as TransformerLens writes it
    with torch.random.fork_rng(devices=[]), quiet_deprecation():
        model = HookedTransformer(cfg)
    model.tokenizer = tiny_tokenizer
    require_same_logits(model, AutoModelForCausalLM.from_pretrained(export_hf(model, tmp_path / "out")))
    model.blocks[0].mlp.extra = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(
        ModelError, match=r"not those of this architecture, .* differ in 'blocks.0.mlp.extra'"
    ):
        export_hf(model, tmp_path / "other")


# The table


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_every_tensor_and_every_parameter_once(kind: str) -> None:
    hf = random_hf(kind, 20)
    row, cfg = ARCHITECTURES[hf.config.model_type], hooked_config(hf.config, name=kind)
    model = hooked_from_hf(hf.state_dict(), row, cfg)
    links = list(each_link(row.links, cfg))
    assert sorted(name for link in links for name in link.hooked) == sorted(dict(model.named_parameters()))
    on = [link for link in links if link.flag is None or getattr(hf.config, link.flag)]
    needed = [link.hf for link in on if link.hf is not None]
    assert sorted(needed) == sorted(row.shapes(hf.config)) == sorted(hf.state_dict())


def test_a_table_that_forgets_or_repeats_a_weight_is_caught() -> None:
    hf = random_hf("neox", 20)
    row, cfg = ARCHITECTURES["gpt_neox"], hooked_config(hf.config, name="neox")
    without = dataclasses.replace(row, links=row.links[:-1])
    with pytest.raises(ModelError, match=r"gives no value to 'blocks\.0\.mlp\.b_out'"):
        hooked_from_hf(hf.state_dict(), without, cfg)
    twice = dataclasses.replace(row, links=(*row.links, row.links[3]))
    with pytest.raises(ModelError, match=r"the table of architectures gives 'unembed\.W_U' twice"):
        hooked_from_hf(hf.state_dict(), twice, cfg)
    other = dataclasses.replace(cfg, d_mlp=24, n_params=None)
    with pytest.raises(
        ModelError, match=r"blocks\.0\.mlp\.W_in should have shape \[32, 24\], but \[32, 80\]"
    ):
        hooked_from_hf(hf.state_dict(), row, other)


@pytest.mark.parametrize("kind", KINDS)
def test_hooked_tensors_are_views_of_the_checkpoint_by_the_names_of_the_model(kind: str) -> None:
    hf = random_hf(kind, 20)
    row, cfg = ARCHITECTURES[hf.config.model_type], hooked_config(hf.config, name=kind)
    model = dict(hooked_from_hf(hf.state_dict(), row, cfg).named_parameters())
    found = dict(hooked_tensors(hf.state_dict(), row, cfg))
    assert same(found, model)
    memory = {weight.untyped_storage().data_ptr() for weight in hf.parameters()}
    for name, tensor in found.items():
        assert tensor.untyped_storage().data_ptr() in memory or not tensor.any(), name
    state = hf.state_dict()
    gone = next(name for name in state if name.endswith("1.mlp.fc1.weight") or "mlp" in name)
    del state[gone]
    with pytest.raises(ModelError, match=f"the model lacks the weight '{gone}'"):
        list(hooked_tensors(state, row, cfg))


# Parity through one layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_tells_a_right_model_from_a_wrong_one(kind: str, dtype: torch.dtype) -> None:
    hf = random_hf(kind, 200)
    row, cfg = ARCHITECTURES[hf.config.model_type], hooked_config(hf.config, name=kind, dtype=dtype)
    model = hooked_from_hf(hf.state_dict(), row, cfg)
    before = torch.get_rng_state()

    def check() -> None:
        require_layer_parity(model, hf.state_dict(), row, hf.config, name=kind)

    check()
    with torch.no_grad():
        parameter(model, "blocks.1.mlp.W_out").zero_()
        check()
        for name in ("blocks.0.attn.W_Q", "blocks.0.mlp.W_in", "blocks.0.ln1.w", "ln_final.w", "unembed.W_U"):
            weight = parameter(model, name)
            kept = weight.clone()
            weight.copy_(weight.flip(-1) if name != "unembed.W_U" else weight.roll(1, -1))
            with pytest.raises(ModelError, match=r"the logits after the hooked model's first layer differ"):
                check()
            weight.copy_(kept)
    check()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_large_models_load_through_the_check_of_one_layer(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer))
    folder = saved(hf, tiny_tokenizer, tmp_path)
    wanted = load_model(folder)
    monkeypatch.setattr("mechstyle.models.FULL_CHECK_BYTES", 0)
    monkeypatch.setattr("mechstyle.models.require_parity", None)
    assert same(dict(load_model(folder).named_parameters()), dict(wanted.named_parameters()))
    half = load_model(folder, dtype=torch.bfloat16)
    assert all(
        torch.equal(weight, parameter(wanted, name).bfloat16()) for name, weight in half.named_parameters()
    )
    assert same(
        dict(load_model(hf, tokenizer=tiny_tokenizer).named_parameters()), dict(wanted.named_parameters())
    )
