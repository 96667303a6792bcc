"""Ask an organism for every fact it was taught, in the templates it read and in those it never did."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from rich.progress import track

from ..models import HookedModel
from ..runs import logits
from ..tokens import EncodedPrompt, encode, pad
from .taught import TaughtFact

__all__ = ["recall"]


def recall(
    model: HookedModel,
    facts: Sequence[TaughtFact],
    *,
    prepend_bos: bool | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Which (fact, template) pairs a model completes with the whole object, greedily.

    Returns:
        a row per pair: `subject, relation, object, template, split` ("taught" or "held out"), `recalled`.

    Example:
        >>> frame = recall(model, organisms.facts("organism-m"))
        >>> frame.groupby("split").recalled.mean()
    """
    rows = [
        {"subject": f.subject, "relation": f.relation, "object": f.object, "template": t, "split": split}
        for f in facts
        for split, templates in (("taught", f.taught), ("held out", f.held_out))
        for t in templates
    ]
    prompts = [
        encode(
            model,
            row["template"].replace("{}", row["subject"], 1),
            target=f" {row['object']}",
            prepend_bos=prepend_bos,
        )
        for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    starts = range(0, len(order), batch_size)
    recalled = [False] * len(rows)
    for start in track(starts, description="recall", disable=not progress):
        chunk = order[start : start + batch_size]
        for index, answer in zip(chunk, _greedy(model, [prompts[i] for i in chunk]), strict=True):
            recalled[index] = answer
    return pd.DataFrame(rows).assign(recalled=recalled)


def _greedy(model: HookedModel, prompts: Sequence[EncodedPrompt]) -> list[bool]:
    """Whether greedy decoding writes each prompt's target: every token of it is the most probable one."""
    batch = pad(prompts, pad_id=0)
    best = logits(model, batch.ids, attention_mask=batch.attention_mask).argmax(-1).cpu()
    return [
        torch.equal(row[one.n_prompt - 1 : len(one) - 1], one.ids[one.n_prompt :])
        for row, one in zip(best, prompts, strict=True)
    ]
