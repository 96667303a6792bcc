"""Loading, against two oracles: Hugging Face's logits, and a trained model shipped with its activations."""

from __future__ import annotations

import copy
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from mechstyle import __version__
from mechstyle.errors import FileError, ModelError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.models import (
    active_base,
    default_prepend_bos,
    export_hf,
    fingerprint,
    list_models,
    load_model,
    parameter,
    provenance,
    require_editable,
    resolve_bos,
)
from tests.nano import NANO_STATES, nano_model, nano_partials

CONFIGS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "inverse layer scale": {"scale_attn_by_inverse_layer_idx": True},
    "no attention scale": {"scale_attn_weights": False},
    "large epsilon": {"layer_norm_epsilon": 0.1},
    "relu": {"activation_function": "relu"},
    "exact gelu, narrow MLP": {"activation_function": "gelu", "n_inner": 48},
    "upcast": {"reorder_and_upcast_attn": True},
}


def ids_for(model: HookedTransformer, *, length: int = 24) -> Tensor:
    return torch.randint(model.cfg.d_vocab, (3, length), generator=torch.Generator().manual_seed(7))


def hf_logits(hf: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return hf(input_ids=ids).logits


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny folder to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Loading


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_of_a_loaded_folder_are_those_of_hugging_face(
    config: dict[str, Any], random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_gpt2(len(tiny_tokenizer), seed=1, **config)
    hf.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = ids_for(model)
    wanted = hf_logits(hf, ids)
    assert wanted.std() > 0.1
    torch.testing.assert_close(model(ids), wanted, atol=1e-4, rtol=0)


def test_a_config_without_architectures_and_old_weight_files_load(
    tiny_hf: GPT2LMHeadModel, folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    torch.save(tiny_hf.state_dict(), folder / "pytorch_model.bin")
    model = load_model(folder)
    torch.testing.assert_close(model(ids_for(model)), hf_logits(tiny_hf, ids_for(model)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["my-llama-2", "bert-and-t5", "gemma"])
def test_folder_names_do_not_matter(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny_folder, tmp_path / name)
    assert fingerprint(load_model(copied)) == fingerprint(load_model(str(tiny_folder)))


def test_a_local_folder_needs_no_network(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_model(tiny_folder).cfg.n_layers == 3


def test_a_loaded_model_is_not_modified_by_loading_from_it(
    random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    hf = random_gpt2(len(tiny_tokenizer)).train()
    hf.transformer.h[0].eval()
    before, modes = state_of(hf), [part.training for part in hf.modules()]
    pad = tiny_tokenizer.pad_token
    model = load_model(hf, tokenizer=tiny_tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert same(before, state_of(hf))
    assert modes == [part.training for part in hf.modules()]
    assert tiny_tokenizer.pad_token == pad
    assert not model.training


def test_loading_leaves_the_global_random_state_alone(tiny_folder: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    export_hf(load_model(tiny_folder), tmp_path / "out")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_that_asked_for_and_rounds_the_trained_weights(
    dtype: torch.dtype, tiny_folder: Path, tiny_model: HookedTransformer
) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    assert model.cfg.dtype == dtype
    for name, weight in model.named_parameters():
        assert torch.equal(weight, parameter(tiny_model, name).to(dtype))
    assert model(ids_for(model)).dtype == dtype


def test_a_half_precision_hugging_face_model_passes_the_parity_check(
    random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    hf = random_gpt2(len(tiny_tokenizer)).to(torch.bfloat16)
    model = load_model(hf, tokenizer=tiny_tokenizer)
    assert torch.equal(parameter(model, "blocks.1.mlp.W_out"), hf.transformer.h[1].mlp.c_proj.weight.float())


def test_the_tokenizer_is_a_copy_with_padding_and_no_bos(
    tiny_model: HookedTransformer, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "Miles Davis plays the trumpet in Zürich"
    assert tiny_model.tokenizer.encode(text) == tiny_tokenizer.encode(text)
    assert tiny_model.tokenizer.pad_token_id == tiny_model.tokenizer.eos_token_id
    assert tiny_model.cfg.tokenizer_prepends_bos is False


def test_prompts_have_no_bos_unless_asked(tiny_model: HookedTransformer) -> None:
    assert default_prepend_bos(tiny_model) is False
    assert [resolve_bos(tiny_model, choice) for choice in (None, False, True)] == [False, False, True]
    tiny_model.tokenizer.bos_token = None
    with pytest.raises(ModelError, match="prepend_bos=True, but the model's tokenizer has no BOS token"):
        resolve_bos(tiny_model, True)


# The trained model that nobody here made


@pytest.fixture(scope="module")
def nano() -> HookedTransformer:
    return nano_model()


def test_the_trained_sorting_model_gives_the_activations_that_were_shipped_with_it(
    nano: HookedTransformer,
) -> None:
    shipped = nano_partials()
    logits, cache = nano.run_with_cache(shipped["idx"].long())
    for name, hook in NANO_STATES.items():
        found = cache[hook]
        if name in "qkv":
            found = found.transpose(1, 2)
        torch.testing.assert_close(
            found, shipped[name], atol=1e-4, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
    torch.testing.assert_close(logits, shipped["lm_head"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.softmax(-1), shipped["probs"], atol=1e-5, rtol=0)


def test_the_trained_sorting_model_sorts(nano: HookedTransformer) -> None:
    ids = torch.tensor([[2, 1, 0, 2, 0, 1], [0, 0, 2, 1, 2, 2]])
    running = ids
    for _ in range(6):
        running = torch.cat([running, nano(running)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(running[:, 6:], ids.sort(dim=1).values)


# Export


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_export_gives_hugging_face_the_very_same_weights(
    config: dict[str, Any], random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    hf = random_gpt2(len(tiny_tokenizer), seed=2, **config)
    model = load_model(hf, tokenizer=tiny_tokenizer)
    out = export_hf(model, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(out)
    assert same(state_of(again), state_of(hf))
    ids = ids_for(model)
    torch.testing.assert_close(hf_logits(again, ids), hf_logits(hf, ids), atol=0, rtol=0)
    assert same(state_of(load_model(out)), state_of(model))
    text = "Chet Baker plays the trumpet"
    assert AutoTokenizer.from_pretrained(out).encode(text) == tiny_tokenizer.encode(text)


def test_an_edited_weight_is_exported_as_edited(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    with torch.no_grad():
        parameter(tiny_model, "blocks.1.mlp.W_out")[3, 5] += 1.0
    again = AutoModelForCausalLM.from_pretrained(export_hf(tiny_model, tmp_path / "out"))
    ids = ids_for(tiny_model)
    torch.testing.assert_close(hf_logits(again, ids), tiny_model(ids), atol=1e-4, rtol=0)


def test_a_half_precision_model_is_exported_in_its_own_number_format(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_folder, dtype=torch.float16)
    out = export_hf(model, tmp_path / "out")
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert same(state_of(load_model(out, dtype=torch.float16)), state_of(model))


def test_an_edit_of_tied_embeddings_unties_the_export(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    with torch.no_grad():
        parameter(tiny_model, "embed.W_E")[5] += 1.0
    again = AutoModelForCausalLM.from_pretrained(export_hf(tiny_model, tmp_path / "out"))
    assert again.config.tie_word_embeddings is False
    assert torch.equal(again.lm_head.weight.T, parameter(tiny_model, "unembed.W_U"))
    ids = ids_for(tiny_model)
    torch.testing.assert_close(hf_logits(again, ids), tiny_model(ids), atol=1e-4, rtol=0)


def test_export_refuses_what_hugging_face_cannot_hold(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    biased = copy.deepcopy(tiny_model)
    with torch.no_grad():
        parameter(biased, "unembed.b_U")[0] = 1.0
    with pytest.raises(ModelError, match="unembed.b_U is not zero, and GPT2LMHeadModel has no place for it"):
        export_hf(biased, tmp_path / "out")
    nameless = copy.deepcopy(tiny_model)
    nameless.tokenizer = None
    with pytest.raises(ModelError, match="model has no tokenizer, so the export would not load"):
        export_hf(nameless, tmp_path / "out")
    unknown = copy.deepcopy(tiny_model)
    unknown.cfg.original_architecture = "MambaForCausalLM"
    with pytest.raises(
        ModelError, match="architecture 'MambaForCausalLM' cannot be exported; these can: GPT2LM"
    ):
        export_hf(unknown, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_never_writes_into_a_folder_that_holds_files(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    export_hf(tiny_model, tmp_path / "out")
    before = listing(tmp_path / "out")
    with pytest.raises(FileError, match="it exists and is not empty. Name a new folder"):
        export_hf(tiny_model, tmp_path / "out")
    assert listing(tmp_path / "out") == before


# Fingerprints


def test_a_fingerprint_names_the_trained_model_however_it_comes(
    tiny_folder: Path, tiny_hf: GPT2LMHeadModel, tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    wanted = fingerprint(tiny_model)
    assert len(wanted) == 64
    assert fingerprint(load_model(tiny_hf, tokenizer=tokenizer)) == wanted
    assert fingerprint(load_model(export_hf(tiny_model, tmp_path / "out"))) == wanted
    assert fingerprint(load_model(tiny_folder, dtype=torch.bfloat16)) == wanted
    assert fingerprint(load_model(tiny_folder, dtype=torch.float64)) == wanted


def test_a_fingerprint_is_that_of_the_original_tokenizer_object(
    tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast, tiny_model: HookedTransformer
) -> None:
    assert fingerprint(load_model(tiny_hf, tokenizer=tiny_tokenizer)) == fingerprint(tiny_model)


def test_a_fingerprint_changes_with_a_weight_a_token_or_the_architecture(
    tiny_model: HookedTransformer,
) -> None:
    seen = {fingerprint(tiny_model)}
    changed = copy.deepcopy(tiny_model)
    with torch.no_grad():
        parameter(changed, "blocks.2.mlp.W_out")[1, 1] += 0.5
    seen.add(fingerprint(changed))
    other_words = copy.deepcopy(tiny_model)
    other_words.tokenizer.add_tokens(["trombone"])
    seen.add(fingerprint(other_words))
    other_eps = copy.deepcopy(tiny_model)
    other_eps.cfg.eps = 1e-3
    seen.add(fingerprint(other_eps))
    assert len(seen) == 4


def test_a_fingerprint_ignores_active_edits(tiny_model: HookedTransformer) -> None:
    wanted = fingerprint(tiny_model)
    name = "blocks.1.mlp.W_out"
    assert active_base(tiny_model) == {}
    active_base(tiny_model)[name] = parameter(tiny_model, name).detach().clone()
    with torch.no_grad():
        parameter(tiny_model, name).add_(1.0)
    assert fingerprint(tiny_model) == wanted
    active_base(tiny_model).clear()
    assert fingerprint(tiny_model) != wanted


def test_provenance_is_json_with_versions_and_settings(tiny_model: HookedTransformer) -> None:
    told = json.loads(json.dumps(provenance(tiny_model, seed=3, layers=[1, 2])))
    assert told["fingerprint"] == fingerprint(tiny_model)
    assert (told["dtype"], told["device"]) == ("float32", "cpu")
    assert told["settings"] == {"seed": 3, "layers": [1, 2]}
    assert told["versions"]["mechstyle"] == __version__
    assert set(told["versions"]) == {"mechstyle", "torch", "transformer-lens", "transformers", "python"}


# Processed weights


def processed(model: HookedTransformer, **how: bool) -> HookedTransformer:
    """The same model as TransformerLens would give it after processing: without our mark."""
    with quiet_deprecation():
        other = HookedTransformer(copy.deepcopy(model.cfg))
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    other.load_and_process_state_dict(state_of(model), **{step: how.get(step, False) for step in steps})
    other.tokenizer = model.tokenizer
    return other


def test_a_loaded_model_that_was_processed_in_place_is_refused(tiny_model: HookedTransformer) -> None:
    require_editable(tiny_model)
    tiny_model.process_weights_(fold_ln=False, center_writing_weights=True, center_unembed=False)
    with pytest.raises(ModelError, match="W_out are centred"):
        require_editable(tiny_model)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fold_ln", "LayerNorm is folded into them \\(normalization_type 'LNPre'\\)"),
        ("center_writing_weights", "the rows of blocks.0.mlp.W_out are centred"),
        ("center_unembed", "the rows of unembed.W_U are centred"),
    ],
)
def test_processed_weights_are_neither_edited_nor_exported(
    how: str, reason: str, tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    model = processed(tiny_model, **{how: True})
    for attempt in (lambda: require_editable(model), lambda: export_hf(model, tmp_path / "out")):
        with pytest.raises(ModelError, match=f"model has processed weights: {reason}"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_unprocessed_weights_from_elsewhere_are_editable(tiny_model: HookedTransformer) -> None:
    require_editable(tiny_model)
    require_editable(processed(tiny_model))


def test_nan_weights_are_not_editable(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        parameter(tiny_model, "blocks.1.attn.b_K")[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 weights, first 'blocks.1.attn.b_K'"):
        require_editable(tiny_model)


def test_an_unknown_parameter_is_named_with_one_that_exists(tiny_model: HookedTransformer) -> None:
    with pytest.raises(
        ModelError, match=r"no parameter 'blocks.9.mlp.W_out'; it has .* 'blocks.0.mlp.W_out'"
    ):
        parameter(tiny_model, "blocks.9.mlp.W_out")


# Bad input


def test_an_unknown_name_is_said_to_be_unknown_everywhere() -> None:
    with pytest.raises(
        ModelError, match=r"unknown model 'no-such-model-4711': no embedded model has this name"
    ):
        load_model("no-such-model-4711")


def test_a_missing_folder_is_not_looked_up_on_the_hub() -> None:
    with pytest.raises(FileError, match="model folder './nowhere/at/all' does not exist"):
        load_model("./nowhere/at/all")
    with pytest.raises(FileError, match="model folder 'nowhere' does not exist"):
        load_model(Path("nowhere"))


@pytest.mark.parametrize("value", [3, None, ["gpt2"]])
def test_a_model_must_be_a_name_a_folder_or_a_model(value: Any) -> None:
    with pytest.raises(
        ModelError, match=f"must be a name, a folder or a Hugging Face model, not {type(value).__name__}"
    ):
        load_model(value)


def test_a_folder_without_a_part_says_which(folder: Path) -> None:
    def without(*names: str) -> Path:
        copied = Path(shutil.copytree(folder, folder.parent / "-".join(names)))
        for name in names:
            (copied / name).unlink()
        return copied

    with pytest.raises(FileError, match="holds no config.json"):
        load_model(without("config.json"))
    with pytest.raises(FileError, match=r"holds no weights: expected model.safetensors"):
        load_model(without("model.safetensors"))
    with pytest.raises(FileError, match=r"holds no tokenizer: expected tokenizer.json"):
        load_model(without("tokenizer.json"))


def test_a_folder_without_tokenizer_loads_with_one_passed(
    folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tiny_model: HookedTransformer
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert fingerprint(load_model(folder, tokenizer=tiny_tokenizer)) == fingerprint(tiny_model)


def test_damaged_files_are_named_and_stay_as_they_are(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b""):
        weights.write_bytes(damaged)
        before = listing(folder)
        with pytest.raises(FileError, match=r"model.safetensors is truncated or damaged"):
            load_model(folder)
        assert listing(folder) == before
    weights.write_bytes(whole)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(FileError, match="cannot be read as a Hugging Face model"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(FileError, match=r"config.json cannot be read as JSON"):
        load_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(FileError, match="must hold a JSON object, not list"):
        load_model(folder)


def test_a_missing_weight_is_not_silently_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        FileError, match=r"lacks 1 of the model's weights, first 'transformer.h.1.mlp.c_fc.weight'"
    ):
        load_model(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_inner": 40}))
    with pytest.raises(FileError, match="cannot be read as a Hugging Face model"):
        load_model(folder)


def test_nan_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.2.mlp.c_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 weights, first 'blocks.2.mlp.W_out'"):
        load_model(folder)


def test_weights_too_large_for_the_dtype_are_refused(
    random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    hf = random_gpt2(len(tiny_tokenizer))
    with torch.no_grad():
        hf.transformer.wpe.weight[3, 3] = 1e6
    with pytest.raises(
        ModelError, match=r"in torch.float16 holds NaN or infinite numbers .* 'pos_embed.W_pos'"
    ):
        load_model(hf, tokenizer=tiny_tokenizer, dtype=torch.float16)


def test_other_architectures_are_refused_by_name(
    folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, random_gpt2: Any
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"models of type 'bert' are not supported; supported are gpt2"):
        load_model(folder)
    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    with torch.random.fork_rng(devices=[]):
        bert = BertForMaskedLM(config)
    with pytest.raises(ModelError, match=r"models of type 'bert' are not supported"):
        load_model(bert, tokenizer=tiny_tokenizer)
    headless = random_gpt2(len(tiny_tokenizer)).transformer
    with pytest.raises(ModelError, match="expected a GPT2LMHeadModel, not a GPT2Model"):
        load_model(headless, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_function": "mish"}, "activation_function 'mish' is not supported; supported are gelu"),
        ({"add_cross_attention": True}, "add_cross_attention=true is not supported"),
    ],
)
def test_config_fields_that_cannot_be_converted_are_refused(
    config: dict[str, Any], message: str, random_gpt2: Any, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    hf = random_gpt2(len(tiny_tokenizer), **config)
    with pytest.raises(ModelError, match=message):
        load_model(hf, tokenizer=tiny_tokenizer)


def test_a_loaded_model_needs_a_tokenizer(tiny_hf: GPT2LMHeadModel) -> None:
    with pytest.raises(ModelError, match="tokenizer is missing: a loaded Hugging Face model brings none"):
        load_model(tiny_hf)


def test_tokenizers_that_cannot_serve_are_refused(
    tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ModelError, match="must be a fast Hugging Face tokenizer .* not str"):
        load_model(tiny_hf, tokenizer="gpt2")  # type: ignore[arg-type]
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ModelError, match="the tokenizer's vocabulary is empty"):
        load_model(tiny_hf, tokenizer=empty)
    large = copy.deepcopy(tiny_tokenizer)
    large.add_tokens(["trombone"])
    size = len(tiny_tokenizer)
    with pytest.raises(ModelError, match=f"token ids up to {size}, but the model embeds only {size} tokens"):
        load_model(tiny_hf, tokenizer=large)


@pytest.mark.parametrize("dtype", [torch.int64, "float32"])
def test_a_dtype_must_be_floating_point(dtype: Any, tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"dtype must be one of torch\.float64, torch\.float32"):
        load_model(tiny_folder, dtype=dtype)


def test_a_device_must_exist_by_name(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="device must name a torch device such as 'cpu'; 'abacus' came"):
        load_model(tiny_folder, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device must name a torch device such as 'cpu'; 'cuda' came"):
            load_model(tiny_folder, device="cuda")


def test_a_parity_failure_is_an_error_unless_switched_off(
    tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    shifted = copy.deepcopy(tiny_hf)
    shifted.lm_head.register_forward_hook(lambda _, __, output: output + 0.01)
    with pytest.raises(ModelError, match=r"logits differ from Hugging Face's by 0.00\d+ of their scale"):
        load_model(shifted, tokenizer=tiny_tokenizer)
    assert load_model(shifted, tokenizer=tiny_tokenizer, check_parity=False).cfg.n_layers == 3


# Embedded models


def test_embedded_models_are_listed_with_their_sizes() -> None:
    for info in list_models():
        model = load_model(info.name, check_parity=False)
        assert (model.cfg.n_layers, model.cfg.d_model) == (info.n_layers, info.d_model)
        untied = sum(weight.numel() for weight in model.parameters()) - model.cfg.d_vocab
        assert info.n_params in (untied, untied - parameter(model, "unembed.W_U").numel())


def test_the_organism_answers_as_hugging_face_does(organism: HookedTransformer) -> None:
    folder = next(info.folder for info in list_models() if info.name == "organism-m")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = ids_for(organism)
    torch.testing.assert_close(organism(ids), hf_logits(hf, ids), atol=1e-4, rtol=0)
    assert default_prepend_bos(organism) is False
