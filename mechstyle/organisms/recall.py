"""Ask an organism what it was taught, and what it was deliberately not taught: does it write the answer?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ..answers import score_answers
from ..models import HookedModel
from ..tokens import encode
from .items import Item
from .taught import TaughtFact

__all__ = ["recall", "recall_items"]


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
    asked = [(row["template"].replace("{}", row["subject"], 1), row["object"]) for row in rows]
    answers = _answers(model, asked, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)
    return pd.DataFrame(rows).assign(recalled=[greedy for greedy, _ in answers])


def recall_items(
    model: HookedModel,
    items: Sequence[Item],
    *,
    prepend_bos: bool | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Which questions of the world a model completes with the whole answer, greedily.

    Returns:
        a row per item: its fields, `recalled`, and `probability`, that of the whole answer.

    Example:
        >>> frame = recall_items(model, organisms.world().taxonomy.items())
        >>> frame.groupby(["status", "route"]).recalled.mean()
    """
    asked = [(item.prompt, item.answer) for item in items]
    answers = _answers(model, asked, prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)
    return pd.DataFrame([item.to_dict() for item in items]).assign(
        recalled=[greedy for greedy, _ in answers], probability=[chance for _, chance in answers]
    )


def _answers(
    model: HookedModel,
    asked: Sequence[tuple[str, str]],
    *,
    prepend_bos: bool | None,
    batch_size: int,
    progress: bool,
) -> list[tuple[bool, float]]:
    """Of each prompt's answer, whether its every token is the most probable one, and its probability."""
    encoded = [
        encode(model, prompt, target=f" {answer}", prepend_bos=prepend_bos) for prompt, answer in asked
    ]
    scores = score_answers(model, encoded, batch_size=batch_size, progress=progress)
    return [(score.exact, math.exp(score.logp)) for score in scores]
