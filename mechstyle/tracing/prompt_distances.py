"""How far prompts are apart: by relation, by letters, by length, and in a model's own spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, require_hooked
from mechstyle.runs import capture
from mechstyle.sites import Site, check_layer
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.weights import parameter_value

__all__ = ["model_distances", "relation_of", "text_distances"]

Distances = Float[NDArray[np.float64], "fact fact"]


def text_distances(facts: Sequence[Fact]) -> dict[str, Distances]:
    """Distances that need no model.

    "relation" is 0 for facts of one relation and 1 for others. "prompt", "subject" and "template" are edit
    distances (Levenshtein), as a share of the longer text. "length" is the difference of the prompts' numbers
    of words, which is there to be ruled out as the reason of what another distance finds.

    Example:
        >>> text_distances(facts)["subject"].shape
        (100, 100)
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    def edits(texts: list[str]) -> Distances:
        found: Distances = cdist(texts, texts, scorer=Levenshtein.normalized_distance, dtype=np.float64)
        return found

    relations = [relation_of(fact) for fact in facts]
    words = np.array([len(fact.prompt.split()) for fact in facts], dtype=float)
    return {
        "relation": np.array([[float(one != other) for other in relations] for one in relations]),
        "prompt": edits([fact.prompt for fact in facts]),
        "subject": edits([fact.subject for fact in facts]),
        "template": edits([fact.template for fact in facts]),
        "length": np.abs(words[:, None] - words),
    }


def relation_of(fact: Fact) -> str:
    """The fact's relation; its template where it names none.

    Example:
        >>> relation_of(Fact("{} plays the", "Miles Davis", " trumpet"))
        '{} plays the'
    """
    return fact.template if fact.relation is None else fact.relation


def model_distances(
    model: HookedModel, facts: Sequence[Fact], *, layer: int | None = None, prepend_bos: bool | None = None
) -> dict[str, Distances]:
    """Distances in a model's own spaces: one minus the cosine.

    "embedding" compares the mean token embedding of the prompts, "subject embedding" that of the subjects'
    tokens, "hidden state" what leaves the layer at the last prompt token.

    Args:
        layer: None is the middle one.

    Raises:
        TextError: a prompt cannot be tokenised.
        RangeError: the model has no such layer.

    Example:
        >>> sorted(model_distances(model, facts, layer=4))
        ['embedding', 'hidden state of layer 4', 'subject embedding']
    """
    require_hooked(model)
    n_layers = int(model.cfg.n_layers)
    site = Site(check_layer(n_layers // 2 if layer is None else layer, n_layers), "resid")
    encoded = [encode_fact(model, fact, target="", prepend_bos=prepend_bos) for fact in facts]
    table = parameter_value(model, "embed.W_E").detach()

    def mean(tokens: Callable[[EncodedPrompt], range]) -> Distances:
        rows = []
        for one in encoded:
            ids = one.ids[list(tokens(one))]
            rows.append(table[ids.to(table.device)].double().mean(0))
        return _cosine(torch.stack(rows))

    states = [capture(model, one.ids[None], [site])[site][0, -1].double() for one in encoded]
    return {
        "embedding": mean(lambda one: range(int(one.prepend_bos), one.n_prompt)),
        "subject embedding": mean(_subject),
        f"hidden state of layer {site.layer}": _cosine(torch.stack(states)),
    }


def _subject(encoded: EncodedPrompt) -> range:
    if encoded.subject is None:
        raise InputError("facts: expected prompts with a subject.")
    return encoded.subject


def _cosine(rows: Float[Tensor, "fact d"]) -> Distances:
    unit = torch.nn.functional.normalize(rows, dim=-1)
    found: Distances = (1 - unit @ unit.T).clamp(min=0).cpu().numpy()
    np.fill_diagonal(found, 0.0)
    return (found + found.T) / 2
