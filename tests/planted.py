"""Transformers whose weights are set by hand, so that it is known where each fact lies and how it is read.

Every direction of the residual stream has one meaning (`Rows`). A subject's last name is one direction, its
answer another; the parts that join them stand where a test asks, everything else is zero. Positions are large
one-hot vectors that add up to zero: heads look a fixed number of tokens back whatever the tokens are, and a
norm divides every state by nearly the same number, which the weights undo.

Without a norm the truth is exact: a state that does not carry the fact changes the answer by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.facts import Fact
from tests.planted_weights import (
    HEAD,
    NEURON,
    OTHER_HEAD,
    SUBJECTS,
    Norm,
    PlantedWeights,
    Rows,
    planted_tokenizer,
)

__all__ = [
    "FACTS", "HEAD", "NEURON", "OTHER_HEAD", "SUBJECTS", "Planted", "attention_fact", "both_tokens",
    "cancelling", "direct_fact", "key_hop", "mlp_fact", "query_hop",
]  # fmt: skip

FACTS: Final = tuple(Fact("{} plays the", subject, answer, "plays") for subject, answer in SUBJECTS.items())
"""What the models with a one-step fact know."""


@dataclass(frozen=True)
class Planted:
    """A model and where its truth lies.

    Attributes:
        fact: one that it knows.
        write: layer of the part that writes, the MLP or the head named in the function.
        read: layer of the head (or MLP) that reads it and answers.
    """

    model: HookedTransformer
    fact: Fact
    write: int
    read: int

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.model.cfg.n_layers)


def mlp_fact(
    *,
    n_layers: int = 6,
    write: int = 2,
    read: int = 4,
    norm: Norm = None,
    grouped: bool = False,
    tiny: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Planted:
    """The MLP of layer `write` turns the last name into the answer, head `HEAD` of layer `read` fetches it.

    Args:
        grouped: two key-value heads for the four query heads.
        tiny: standard deviation of random numbers that are added to all weights.
    """
    weights = PlantedWeights(n_layers, norm, grouped)
    weights.neurons(write, (Rows.NAME,), Rows.ANSWER, needed=0.5)
    weights.look_back(read, HEAD, 2, {Rows.ANSWER: Rows.ANSWER})
    return Planted(weights.model(tiny, dtype), FACTS[0], write, read)


def attention_fact(
    *, n_layers: int = 6, write: int = 1, read: int = 4, norm: Norm = None, grouped: bool = False
) -> Planted:
    """Head `HEAD` of layer `write`, at the last name, turns it into the answer, that of `read` fetches it.

    No MLP does anything. The second head's *values* are composed with the first head's output.
    """
    weights = PlantedWeights(n_layers, norm, grouped)
    weights.look_back(write, HEAD, 0, {Rows.NAME: Rows.ANSWER})
    weights.look_back(read, HEAD, 2, {Rows.ANSWER: Rows.ANSWER})
    return Planted(weights.model(), FACTS[0], write, read)


def direct_fact(*, n_layers: int = 4, read: int = 2, norm: Norm = None) -> Planted:
    """Head `HEAD` of layer `read` reads the last name itself and writes the answer: no part before it."""
    weights = PlantedWeights(n_layers, norm, grouped=False)
    weights.look_back(read, HEAD, 2, {Rows.NAME: Rows.ANSWER})
    return Planted(weights.model(), FACTS[0], read, read)


def query_hop(
    *, n_layers: int = 4, write: int = 1, read: int = 3, norm: Norm = None, grouped: bool = False
) -> Planted:
    """The last name says which colour is the answer: it becomes the reading head's *query*.

    Head `OTHER_HEAD` of layer `write` moves the name to the last token; head `HEAD` of layer `read` looks for
    the colour that this name likes, or at the first token when no name came.
    """
    weights = PlantedWeights(n_layers, norm, grouped)
    weights.look_back(write, OTHER_HEAD, 2, {Rows.NAME: Rows.MOVED})
    weights.look_up(read, HEAD, query={Rows.MOVED + name: name % 2 for name in range(8)}, key=Rows.COLOUR)
    fact = Fact("With red and blue {} likes the", "Miles Davis", " red")
    return Planted(weights.model(), fact, write, read)


def key_hop(
    *, n_layers: int = 4, write: int = 1, read: int = 3, norm: Norm = None, grouped: bool = False
) -> Planted:
    """The colour that stands after a known name is the answer: the name becomes the reading head's *key*.

    Head `OTHER_HEAD` of layer `write` moves the name to the token after it; head `HEAD` of layer `read` looks
    for a token to which a name was moved, or at the first token when there is none.
    """
    weights = PlantedWeights(n_layers, norm, grouped)
    weights.look_back(write, OTHER_HEAD, 1, {Rows.NAME: Rows.MOVED})
    weights.look_up(read, HEAD, query=None, key=Rows.MOVED)
    return Planted(weights.model(), Fact("With {} blue plays the", "Miles Davis", " blue"), write, read)


def both_tokens(
    *, n_layers: int = 4, write: int = 1, read: int = 2, norm: Norm = None, grouped: bool = False
) -> Planted:
    """The answer needs the first *and* the last name: one of them alone is no better than none.

    Heads `OTHER_HEAD` and `HEAD` of layer `write` move both to the last token, where the MLP of layer `read`
    answers.
    """
    weights = PlantedWeights(n_layers, norm, grouped)
    weights.look_back(write, OTHER_HEAD, 3, {Rows.FIRST: Rows.MOVED_FIRST})
    weights.look_back(write, HEAD, 2, {Rows.NAME: Rows.MOVED})
    weights.neurons(read, (Rows.MOVED_FIRST, Rows.MOVED), Rows.ANSWER, needed=1.5)
    return Planted(weights.model(), FACTS[0], write, read)


def cancelling(planted: Planted, fact: Fact, samples: int = 2) -> Tensor:
    """Explicit draws [sample, subject_token, d_model] that take the subject's names away, no more."""
    count = len(fact.subject.split())
    space = " " if fact.subject_offsets[0] else ""
    ids = planted_tokenizer()(space + fact.subject, add_special_tokens=False)["input_ids"]
    assert len(ids) == count
    taken = -planted.model.W_E.detach()[ids].float().cpu()
    return taken.expand(samples, -1, -1).clone()
