"""The same subject in other letters: capitals, and the space in front of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from mechstyle.answers import require_positive, score_answers
from mechstyle.errors import InputError, TextError
from mechstyle.facts import Fact
from mechstyle.metrics import interval
from mechstyle.models import HookedModel, active_base, provenance, require_hooked
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.embedding_changes import check_facts
from mechstyle.weights import parameter_value

__all__ = ["VARIANTS", "average_variants", "subject_variants"]

Written = tuple[str, str]
"""A template and a subject."""


def _respelled(change: Callable[[str], str]) -> Callable[[str, str], Written]:
    return lambda template, subject: (template, change(subject))


def _without_space(template: str, subject: str) -> Written:
    return template.replace(" {}", "{}", 1), subject.lstrip(" ")


VARIANTS: Final[Mapping[str, Callable[[str, str], Written]]] = MappingProxyType(
    {
        "original": lambda template, subject: (template, subject),
        "lower case": _respelled(str.lower),
        "upper case": _respelled(str.upper),
        "title case": _respelled(str.title),
        "space in front": lambda template, subject: (template.replace("{}", " {}", 1), subject),
        "no space in front": _without_space,
    }
)
"""From a template and a subject to how they are written."""


def subject_variants(
    model: HookedModel,
    facts: Sequence[Fact],
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    batch_size: int = 32,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> pd.DataFrame:
    """Is a fact recalled when its subject is written in another way?

    Each variant is tokenised anew, and whole answers are scored: token counts may differ. The *control* is
    the prompt with another fact's subject, written likewise, of another target and where possible of the
    same relation: what the answer is worth to somebody else.

    Args:
        variants: of `VARIANTS`; "original" is always there.
        batch_size: prompts in one forward pass.
        seed: of the other subjects.

    Returns:
        a row per fact and variant that changes its prompt: fact (its number), relation, variant, prompt,
        n_tokens (of the subject), n_tokens_original, shared (the share of the variant's token kinds that the
        original has), cosine (of the mean embeddings of both), prob, logprob, exact, and control (a
        probability). `attrs["provenance"]` has the seed and counts what could not be tokenised (`left_out`).

    Raises:
        InputError: no facts, fewer than two different targets, or an unknown variant.
        TextError: a prompt cannot be tokenised as it is.
        RangeError: `batch_size` is below 1.

    Example:
        >>> frame = subject_variants(model, facts)
        >>> frame.groupby("variant")[["prob", "control"]].mean()
    """
    require_hooked(model)
    check_facts(facts)
    require_positive("batch_size", batch_size)
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise InputError(f"variants: expected some of {', '.join(VARIANTS)}, got {unknown}.")
    others = _others(facts, seed)
    table = parameter_value(model, "embed.W_E").detach()
    names = ["original", *(name for name in dict.fromkeys(variants) if name != "original")]
    rows: list[dict[str, Any]] = []
    encoded: list[EncodedPrompt] = []
    left_out = dict.fromkeys(names, 0)
    for number, (fact, other) in enumerate(zip(facts, others, strict=True)):
        original = encode_fact(model, fact, prepend_bos=prepend_bos)
        for name in names:
            template, subject = VARIANTS[name](fact.template, fact.subject)
            if name != "original" and (template, subject) == (fact.template, fact.subject):
                continue
            try:
                mine = encode_fact(model, Fact(template, subject, fact.target), prepend_bos=prepend_bos)
                stranger = Fact(*VARIANTS[name](fact.template, other), fact.target)
                control = encode_fact(model, stranger, prepend_bos=prepend_bos)
            except TextError:
                left_out[name] += 1
                continue
            encoded += [mine, control]
            kinds, known = (set(_subject_ids(one).tolist()) for one in (mine, original))
            rows.append(
                {
                    "fact": number, "relation": fact.relation, "variant": name,
                    "prompt": template.replace("{}", subject, 1),
                    "n_tokens": len(_subject_ids(mine)), "n_tokens_original": len(_subject_ids(original)),
                    "shared": len(kinds & known) / len(kinds), "cosine": _cosine(table, mine, original),
                }
            )  # fmt: skip
    scores = score_answers(model, encoded, batch_size=batch_size)
    frame = pd.DataFrame(rows).assign(
        logprob=[one.logp for one in scores[::2]],
        exact=[one.exact for one in scores[::2]],
        control=[float(torch.tensor(one.logp).exp()) for one in scores[1::2]],
    )
    frame.insert(len(frame.columns) - 3, "prob", [float(torch.tensor(one.logp).exp()) for one in scores[::2]])
    frame.attrs["provenance"] = provenance(
        model,
        facts=[fact.to_dict() for fact in facts],
        variants=names,
        left_out=left_out,
        seed=seed,
        prepend_bos=encoded[0].prepend_bos,
        active_edits=sorted(active_base(model)),
    )
    return frame


def average_variants(
    frame: pd.DataFrame, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Means of each variant over its facts, with bootstrap intervals over facts.

    Args:
        frame: from `subject_variants`.

    Returns:
        a row per variant: n_facts, n_tokens, n_tokens_original, shared, cosine, exact, and with low and high:
        prob, and change (from the same facts' original). `control` has its mean.

    Raises:
        InputError: the frame lacks the columns.
        RangeError: `level` or `resamples` is out of range.

    Example:
        >>> average_variants(subject_variants(model, facts))
    """
    plain = ("n_tokens", "n_tokens_original", "shared", "cosine", "exact", "control")
    if missing := [name for name in ("fact", "variant", "prob", *plain) if name not in frame]:
        raise InputError(
            f"frame: expected the result of subject_variants, got one without {', '.join(missing)}."
        )
    before = frame[frame["variant"] == "original"].set_index("fact")["prob"]
    rows = []
    for name, some in frame.groupby("variant", sort=False):
        row: dict[str, Any] = {"variant": name, "n_facts": len(some), **some[list(plain)].mean().to_dict()}
        change = some["prob"].to_numpy() - before.loc[some["fact"]].to_numpy()
        for column, values in (("prob", some["prob"].to_numpy()), ("change", change)):
            low, high = interval(values, level=level, resamples=resamples, seed=seed)
            row |= {column: values.mean(), f"{column}_low": float(low), f"{column}_high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _others(facts: Sequence[Fact], seed: int) -> list[str]:
    """For each fact another's subject with another target, of the same relation where there is one."""
    rng, found = random.Random(seed), []
    for fact in facts:
        apart = [one for one in facts if one.target != fact.target and one.subject != fact.subject]
        near = [one for one in apart if one.relation == fact.relation] or apart
        if not near:
            raise InputError("facts: expected at least two subjects with different targets, for the control.")
        found.append(rng.choice(near).subject)
    return found


def _subject_ids(encoded: EncodedPrompt) -> Tensor:
    assert encoded.subject is not None
    return encoded.ids[encoded.subject.start : encoded.subject.stop]


def _cosine(table: Tensor, one: EncodedPrompt, other: EncodedPrompt) -> float:
    left, right = (table[_subject_ids(part).to(table.device)].double().mean(0) for part in (one, other))
    return float(torch.nn.functional.cosine_similarity(left, right, dim=0))
