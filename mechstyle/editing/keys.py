"""Contexts that a fact's prompt is put into, and the MLP's keys at the subject's last token there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.runs import capture, decode
from mechstyle.sites import Site, check_layer
from mechstyle.tokens import EncodedPrompt, encode_fact, pad

__all__ = [
    "BARE",
    "check_contexts",
    "last_subject_index",
    "memit_contexts",
    "sample_contexts",
    "subject_keys",
    "subject_states",
]

BARE = "{}"
"""The context that leaves the prompt alone."""

_LENGTHS = ((5, 10), (10, 10))  # (tokens, prefixes), as published for ROME
_TOP_K = 5
_STARTS = ("The", "Therefore", "Because", "I", "You")


def sample_contexts(
    model: HookedModel,
    seed: int = 0,
    *,
    lengths: Sequence[tuple[int, int]] = _LENGTHS,
    top_k: int | None = _TOP_K,
) -> tuple[str, ...]:
    """Sample prefixes from the model itself and return context templates, the bare ``"{}"`` first.

    Sampling starts from the BOS token (EOS where there is none), at temperature 1 among the ``top_k`` most
    probable tokens, special tokens excluded: 5 as in ROME's code, since rarer tokens soon lead a small model
    away from text. Braces and broken characters are taken out of a prefix, so that ``{}`` occurs once. Sample
    once and pass ``contexts=`` on when many edits share a model.

    Args:
        seed: of an own CPU generator; the global one is not touched.
        lengths: pairs (tokens in a prefix, number of prefixes); published are 10 of 5 and 10 of 10.
        top_k: None samples among all tokens.

    Raises:
        RangeError: a length, number or ``top_k`` is below 1.
        ModelError: the tokenizer has neither BOS nor EOS.

    Meng et al. 2022 (ROME), section 3.1.

    >>> sample_contexts(model, seed=0)[:2]  # doctest: +SKIP
    ('{}', 'The river was. {}')
    """
    if (top_k is not None and top_k < 1) or any(tokens < 1 or number < 1 for tokens, number in lengths):
        raise RangeError(f"lengths, top_k: expected numbers of 1 or more, got {list(lengths)} and {top_k}.")
    sizes = [tokens for tokens, number in lengths for _ in range(number)]
    return (BARE, *_prefixes(model, [""] * len(sizes), sizes, seed, top_k))


def memit_contexts(model: HookedModel, seed: int = 0) -> tuple[str, ...]:
    """The contexts of MEMIT's public code: five prefixes of ten tokens, each sampled after a common word.

    Raises:
        ModelError: as ``sample_contexts``.

    Meng et al. 2023 (MEMIT), their public code.

    >>> memit_contexts(model)[1]  # doctest: +SKIP
    'The river was cold and so they went. {}'
    """
    return (BARE, *_prefixes(model, list(_STARTS), [10] * len(_STARTS), seed, _TOP_K))


def check_contexts(contexts: Sequence[str]) -> tuple[str, ...]:
    """Return the contexts as a tuple, or say what is wrong with them.

    Raises:
        TextError: not a sequence of templates with one ``{}`` each, or without the bare ``"{}"`` exactly
            once.

    >>> check_contexts(["{}", "The day was long. {}"])
    ('{}', 'The day was long. {}')
    """
    if isinstance(contexts, str) or not isinstance(contexts, Sequence):
        found = f"one string; pass ({contexts!r},)" if isinstance(contexts, str) else type(contexts).__name__
        raise TextError(f"contexts: expected a sequence of templates, got {found}.")
    for context in contexts:
        if not isinstance(context, str) or context.count(BARE) != 1:
            raise TextError(f"contexts: expected templates with '{BARE}' exactly once, got {context!r}.")
    if list(contexts).count(BARE) != 1:
        raise TextError(
            f"contexts: expected the bare '{BARE}' exactly once, got {list(contexts).count(BARE)} of them in "
            f"{len(contexts)} contexts; the wanted value is read there."
        )
    return tuple(contexts)


def subject_keys(
    model: HookedModel,
    fact: Fact,
    *,
    layer: int,
    contexts: Sequence[str] = (BARE,),
    prepend_bos: bool | None = None,
) -> Float[Tensor, "context d_mlp"]:
    """Read the key at the subject's last token in each context, in the order of the contexts.

    Raises:
        TextError: a context is no template, or the prompt cannot be tokenised in it.
        RangeError: the layer is out of range.

    >>> subject_keys(model, fact, layer=4, contexts=contexts).mean(0)  # doctest: +SKIP
    """
    site = Site(check_layer(layer, model.cfg.n_layers), "key")
    return subject_states(model, [fact], site, contexts=contexts, prepend_bos=prepend_bos)[0]


def subject_states(
    model: HookedModel,
    facts: Sequence[Fact],
    site: Site,
    *,
    contexts: Sequence[str] = (BARE,),
    prepend_bos: bool | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "fact context d"]:
    """Read the state at each subject's last token, in each context.

    Args:
        batch_size: sequences in one forward pass; it does not change the result.

    Raises:
        TextError: a context is no template, or a prompt cannot be tokenised in it.

    >>> subject_states(model, facts, Site(8, "resid"))[:, 0]  # doctest: +SKIP
    """
    encoded = [
        encode_fact(model, fact, template=context, prepend_bos=prepend_bos)
        for fact in facts
        for context in contexts
    ]
    # Nothing behind the subject can change its states: it is not run. Rows of similar length go together.
    last = [last_subject_index(one) for one in encoded]
    order = sorted(range(len(encoded)), key=last.__getitem__)
    found: dict[int, Tensor] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        at = torch.tensor([last[row] for row in rows])
        batch, width = pad([encoded[row] for row in rows], pad_id=0), int(at.max()) + 1
        mask = batch.attention_mask[:, :width]
        read = capture(model, batch.ids[:, :width], [site], attention_mask=mask)[site]
        found.update(zip(rows, read[torch.arange(len(rows)), at], strict=True))
    ordered = torch.stack([found[row] for row in range(len(encoded))])
    states: Tensor = ordered.unflatten(0, (len(facts), len(contexts)))
    return states


def last_subject_index(encoded: EncodedPrompt) -> int:
    """Index of the subject's last token in an unpadded (or right-padded) row.

    Raises:
        TextError: the prompt was encoded without a subject.
    """
    if encoded.subject is None:
        raise TextError(
            f"subject: expected a prompt encoded with its subject, got none for {encoded.text!r}."
        )
    return encoded.subject[-1]


def _prefixes(
    model: HookedModel, begins: Sequence[str], sizes: Sequence[int], seed: int, top_k: int | None
) -> list[str]:
    """Context templates: a prefix of so many tokens, its first words given or none, and then the prompt."""
    if not sizes:
        return []
    first = model.tokenizer.bos_token_id
    first = model.tokenizer.eos_token_id if first is None else first
    if first is None:
        raise ModelError(
            "model: its tokenizer has neither BOS nor EOS to sample from; pass contexts=('{}', ...)."
        )
    generator = torch.Generator().manual_seed(seed)
    special, n_tokens = list(model.tokenizer.all_special_ids), len(model.tokenizer)

    def choose(logits: Tensor) -> Tensor:
        scores = logits.double().cpu()
        scores[:, special] = -torch.inf
        scores[:, n_tokens:] = -torch.inf  # embeddings that no token uses
        if top_k is not None:
            lowest = scores.topk(min(top_k, scores.shape[1])).values[:, -1:]
            scores = scores.masked_fill(scores < lowest, -torch.inf)
        drawn: Tensor = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        return drawn[:, 0]

    words = [model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in begins]
    starts = [torch.tensor(own or [int(first)]) for own in words]
    ids = decode(model, starts, max(sizes), choose).tolist()
    texts = [
        _clean(model.tokenizer.decode([*own, *row][:size]))
        for own, row, size in zip(words, ids, sizes, strict=True)
    ]
    return [f"{text}. {BARE}" for text in texts if text]


def _clean(text: Any) -> str:
    """One line without braces or characters that were cut in half."""
    return " ".join(str(text).replace("{", " ").replace("}", " ").replace("\ufffd", " ").split())
