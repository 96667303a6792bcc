"""Models of GPT-2's shape with random weights, and texts of exactly so many tokens for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import mechstyle as ms

LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = "<|endoftext|>"
QUICK = {"n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 128, "vocab_size": 320}
"""For tests: does it run, and do both sides agree?"""


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, in which a letter is one token, alone or with the space before it."""
    pieces = [END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġ{letter}" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", letter) for letter in LETTERS]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END, unk_token=END)


def gpt2(device: str, **config: int) -> Any:
    """GPT-2 small, or what ``config`` makes of it, with fixed random weights that get no gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **config)).eval()
    model = ms.load_model(hf, tokenizer=tokenizer(), device=device, check_parity=False)
    return model.requires_grad_(False)


def words(n_tokens: int, *, first: int = 0) -> str:
    """Text of so many tokens, which begins at a letter of the alphabet."""
    return " ".join(LETTERS[(first + place) % len(LETTERS)] for place in range(n_tokens))


def fact(n_tokens: int, subject: range) -> ms.Fact:
    """A fact whose prompt has so many tokens, those of ``subject`` among them, and an answer of one."""
    all_words = words(n_tokens).split()
    template = [*all_words[: subject.start], "{}", *all_words[subject.stop :]]
    return ms.Fact(
        template=" ".join(template), subject=" ".join(all_words[subject.start : subject.stop]), target=" z"
    )


def contexts(lengths: Sequence[int]) -> tuple[str, ...]:
    """The bare prompt, and prefixes of so many tokens before it."""
    return ("{}", *(f"{words(n, first=7 * i)} {{}}" for i, n in enumerate(lengths)))


def documents(n_tokens: int, longest: int) -> list[str]:
    """Texts of so many tokens in all: most are cut at ``longest``, some are shorter."""
    lengths, left = [], n_tokens
    while left:
        lengths.append(
            min(left, longest if len(lengths) % 4 else longest // 2 + len(lengths) % (longest // 2))
        )
        left -= lengths[-1]
    return [words(length, first=3 * i) for i, length in enumerate(lengths)]


def moment(width: int) -> torch.Tensor:
    """A well-conditioned second moment [width, width], fp64: solves cost the same whatever is in it."""
    draws = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(0))
    return (draws.T @ draws).double() / len(draws)


def numbered(number: int, n_letters: int = 3) -> str:
    """A name of so many tokens, another for each number."""
    letters = [LETTERS[number // len(LETTERS) ** place % len(LETTERS)] for place in range(n_letters)]
    return " ".join(letters)
