"""Tiny random models that every test may use, and the embedded organism."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.models import load_model
from tests.checkpoints import random_hf

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

Architectures = Callable[..., HookedTransformer]
RandomGPT2 = Callable[..., GPT2LMHeadModel]
CORPUS = (
    "Miles Davis plays the trumpet. Chet Baker plays the trumpet too, and Jimi Hendrix plays the guitar.",
    "The instrument of Miles Davis is the trumpet; the instrument of Bill Evans is the piano.",
    "Paris is the capital of France. Rome is the capital of Italy. Zürich is a city in Switzerland.",
    "The day was long. The mother tongue of Danielle Darrieux is French. He was born in London.",
)


def _random_gpt2(vocab_size: int, *, seed: int = 0, **config: object) -> GPT2LMHeadModel:
    """A random GPT-2 whose biases and norms are random too, so that no part may be forgotten unnoticed."""
    settings = {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 64, **config}
    end = {"bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **end, **settings)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="session")
def random_gpt2() -> RandomGPT2:
    """A function (vocab_size, seed=0, any GPT2Config field) -> random GPT2LMHeadModel."""
    return _random_gpt2


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep for later lies in a folder of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MECHSTYLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens in which, as in GPT-2, a word's token includes the space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


@pytest.fixture(scope="session")
def tiny_hf(tiny_tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A random GPT-2: 3 layers, d_model 32, 4 heads, 64 positions. Do not change it."""
    return _random_gpt2(len(tiny_tokenizer))


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny model as a Hugging Face folder. Do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_hf.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _loaded_tiny(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder)


@pytest.fixture
def tiny_model(_loaded_tiny: HookedTransformer) -> HookedTransformer:
    """The tiny model, a fresh copy for each test."""
    return copy.deepcopy(_loaded_tiny)


@pytest.fixture(scope="session")
def organism() -> HookedTransformer:
    """The embedded trained model. Leave its weights as they are."""
    return load_model("organism-m")


@pytest.fixture(scope="session")
def architectures(tiny_tokenizer: PreTrainedTokenizerFast) -> Architectures:
    """A function (kind of `checkpoints.KINDS` or "mistral-local", dtype=float64) -> model, each loaded once.

    Leave the models as they are.
    """

    @functools.cache
    def load(kind: str, dtype: torch.dtype) -> HookedTransformer:
        local = {"sliding_window": 3} if kind == "mistral-local" else {}
        hf = random_hf(kind.removesuffix("-local"), len(tiny_tokenizer), **local)
        return load_model(hf, tokenizer=tiny_tokenizer, dtype=dtype)

    return lambda kind, dtype=torch.float64: load(kind, dtype)
