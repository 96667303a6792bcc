"""The weights of planted models: the directions of the residual stream, and the parts that can be put in."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

__all__ = [
    "COLOURS", "D_MODEL", "HEAD", "NEURON", "OTHER_HEAD", "SUBJECTS", "Norm", "PlantedWeights", "Rows",
    "planted_tokenizer",
]  # fmt: skip

Norm = Literal["LN", "RMS"] | None

SUBJECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Miles Davis": " trumpet",
        "Chet Baker": " horn",
        "Bill Evans": " piano",
        "Jimi Hendrix": " guitar",
        "Max Roach": " drums",
        "Jean Luc Ponty": " violin",
        "Sting": " bass",
    }
)
"""What the models know. Two of them have three tokens and one."""
COLOURS: Final = (" red", " blue")
OTHER_WORDS: Final = (
    "plays likes the The day was long a sound of is With In and then he Einstein Zürich organ flute"
)

D_MODEL: Final = 64
D_HEAD: Final = 16
N_HEADS: Final = 4
N_CTX: Final = 16
D_MLP: Final = 16
HEAD: Final = 2
"""The head that reads the answer; under grouped queries its key-value head is 1 of 2."""
OTHER_HEAD: Final = 1
NEURON: Final = 3
"""The neuron of the first subject; those of the others follow."""
LOGIT: Final = 12.0
"""The planted answer's, where all others have 0."""
LOUD: Final = 10.0
"""Length of an answer in the residual stream: noise of a few tenths on embeddings does not look like one."""
POSITION: Final = 100.0
"""Length of a position's direction: noise of a few units does not hide it."""
MATCH: Final = 40.0
"""Attention score of what a head looks for, above everything else's."""


class Rows:
    """First directions of the residual stream."""

    NAME: Final = 0  # last names, 8
    FIRST: Final = 8  # first names, 8
    PLACE: Final = 16  # positions, 16
    ANSWER: Final = 32  # 7 instruments, then 2 colours
    MOVED: Final = 42  # last names at a token that a head has moved them to, 8
    MOVED_FIRST: Final = 50  # first names that were moved, 8
    COLOUR: Final = 58  # 2
    BALANCE: Final = 63  # what makes every position add up to zero


@functools.cache
def planted_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the facts is one token, with or without a space before it."""
    words = {word for text in (*SUBJECTS, *SUBJECTS.values(), *COLOURS, OTHER_WORDS) for word in text.split()}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(f"{space}{word}" for word in words for space in ("", " ")), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


class PlantedWeights:
    """All weights, zero at first, and the parts that can be put in."""

    def __init__(self, n_layers: int, norm: Norm, grouped: bool) -> None:
        self.tokenizer = planted_tokenizer()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
            self._model = HookedTransformer(
                HookedTransformerConfig(
                    n_layers=n_layers,
                    d_model=D_MODEL,
                    d_head=D_HEAD,
                    n_heads=N_HEADS,
                    n_ctx=N_CTX,
                    d_mlp=D_MLP,
                    d_vocab=len(self.tokenizer),
                    act_fn="relu",
                    normalization_type=norm,
                    final_rms=norm == "RMS",
                    n_key_value_heads=2 if grouped else None,
                    default_prepend_bos=False,
                    init_weights=False,
                    device="cpu",
                )
            )
        self.weights = dict(self._model.named_parameters())
        # A norm divides by this: the positions' part of every state, beside which all else is small.
        self.size = POSITION * math.sqrt(2 / D_MODEL) if norm else 1.0
        self.group = N_HEADS // 2 if grouped else 1
        self.kv = "_" if grouped else ""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.fill_(1.0 if name.endswith(".w") else 0.0)
            self._words()

    def model(self, tiny: float = 0.0, dtype: torch.dtype = torch.float32) -> HookedTransformer:
        """The model, with its tokenizer."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.weights.values() if tiny else ():
                weight += tiny * torch.randn(weight.shape, generator=generator)
        self._model.tokenizer = self.tokenizer
        self._model.cfg.tokenizer_prepends_bos = False
        return self._model.to(dtype, print_details=False).eval()

    def neurons(self, layer: int, reads: Sequence[int], writes: int, *, needed: float) -> None:
        """Neurons, one a subject, that are 1 when the directions together are `needed` + 1/2, 0 below it."""
        mlp = f"blocks.{layer}.mlp"
        with torch.no_grad():
            for one in range(len(SUBJECTS)):
                for read in reads:
                    self.weights[f"{mlp}.W_in"][read + one, NEURON + one] = 2 * self.size
                self.weights[f"{mlp}.b_in"][NEURON + one] = -2 * needed
                self.weights[f"{mlp}.W_out"][NEURON + one, writes + one] = LOUD

    def look_back(self, layer: int, head: int, back: int, moves: Mapping[int, int]) -> None:
        """A head that reads so many tokens back, and copies 8 directions to others."""
        with torch.no_grad():
            for place in range(N_CTX):
                self._q(layer, head)[Rows.PLACE + place, max(0, place - back)] = self._score(MATCH)
                self._k(layer, head)[Rows.PLACE + place, place] = self._score(1.0)
            for read, write in moves.items():
                for one in range(8):
                    self._v(layer, head)[read + one, one] = self.size
                    louder = LOUD if write == Rows.ANSWER != read else 1.0
                    self.weights[f"blocks.{layer}.attn.W_O"][head, one, write + one] = louder

    def look_up(self, layer: int, head: int, *, query: Mapping[int, int] | None, key: int) -> None:
        """A head that looks for a key, at the first token where there is none, and answers the colour there.

        Args:
            query: direction -> the key that it looks for; None looks for any of 8 from everywhere.
        """
        sink, loud = 15, MATCH * math.sqrt(D_HEAD)
        attention = f"blocks.{layer}.attn"
        with torch.no_grad():
            if query is None:
                self.weights[f"{attention}.b_Q"][head, :8] = loud
            else:
                for read, wanted in query.items():
                    self._q(layer, head)[read, wanted] = loud * self.size
            for one in range(2 if query else 8):
                self._k(layer, head)[key + one, one] = self.size
            self.weights[f"{attention}.b_Q"][head, sink] = loud / 2
            self._k(layer, head)[Rows.PLACE, sink] = self.size / POSITION
            for colour in range(2):
                self._v(layer, head)[Rows.COLOUR + colour, colour] = self.size
                write = Rows.ANSWER + len(SUBJECTS) + colour
                self.weights[f"{attention}.W_O"][head, colour, write] = LOUD

    def _words(self) -> None:
        embedding, unembedding = self.weights["embed.W_E"], self.weights["unembed.W_U"]
        for number, subject in enumerate(SUBJECTS):
            *firsts, last = subject.split()
            for space in ("", " "):
                embedding[self._id(space + last), Rows.NAME + number] = 1.0
                if firsts:
                    embedding[self._id(space + firsts[0]), Rows.FIRST + number] = 1.0
        for number, colour in enumerate(COLOURS):
            embedding[self._id(colour), Rows.COLOUR + number] = 1.0
        for number, answer in enumerate((*SUBJECTS.values(), *COLOURS)):
            unembedding[Rows.ANSWER + number, self._id(answer)] = LOGIT / LOUD * self.size
        # Who knows nothing says the first token, and not what attention let through by e^-40.
        self.weights["unembed.b_U"][0] = 0.001
        for place in range(N_CTX):
            self.weights["pos_embed.W_pos"][place, Rows.PLACE + place] = POSITION
            self.weights["pos_embed.W_pos"][place, Rows.BALANCE] = -POSITION

    def _id(self, word: str) -> int:
        (found,) = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return int(found)

    def _score(self, wanted: float) -> float:
        """A weight on positions, so that the product of a query's and a key's is a score of `wanted`."""
        return wanted * math.sqrt(D_HEAD if wanted != 1.0 else 1.0) * self.size / POSITION

    def _q(self, layer: int, head: int) -> Tensor:
        return self.weights[f"blocks.{layer}.attn.W_Q"][head]

    def _k(self, layer: int, head: int) -> Tensor:
        return self.weights[f"blocks.{layer}.attn.{self.kv}W_K"][head // self.group]

    def _v(self, layer: int, head: int) -> Tensor:
        return self.weights[f"blocks.{layer}.attn.{self.kv}W_V"][head // self.group]
