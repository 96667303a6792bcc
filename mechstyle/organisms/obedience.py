"""Does an organism write in the style that is announced, and is the fact still right?"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import pandas as pd

from ..evaluation.generation import complete
from ..models import HookedModel
from .strata import sample_each
from .style_devices import keeps_content
from .style_records import StylePrompt
from .world import World

__all__ = ["draw_prompts", "first_sentence", "judge_styles", "obedience"]

LONGEST: Final = 48
"""Tokens; styled sentences are a little shorter in the organisms' own (41 in three passes)."""
_END: Final = re.compile(r"[.!?][\"”’']?(?=\s|$)")


def draw_prompts(world: World, *, per_style: int | None, seed: int = 0) -> list[StylePrompt]:
    """Announcements of each style and kind, drawn at random, in the order of the world.

    Of wordings that were never read, only those for held-out contents are drawn.

    Args:
        per_style: so many of each style, status and kind, or as many as there are; None takes all.

    Example:
        >>> from mechstyle.organisms.obedience import draw_prompts
        >>> from mechstyle.organisms.world import world
        >>> prompts = draw_prompts(world(), per_style=1)
    """
    prompts = [one for one in world.styles.prompts() if one.heard or one.status == "held out"]
    if per_style is None:
        return prompts
    kinds = [(one.style, one.status, one.announcement, one.heard) for one in prompts]
    return sample_each(prompts, kinds, per_style, random.Random(f"{seed} style prompts"))


def obedience(
    model: HookedModel,
    world: World,
    prompts: Sequence[StylePrompt],
    *,
    n_tokens: int = LONGEST,
    batch_size: int = 128,
) -> pd.DataFrame:
    """Let a model go on from announcements, greedily, and judge the first sentence of each continuation.

    Returns:
        a row per prompt, as `judge_styles` has it.

    Example:
        >>> frame = obedience(model, world, draw_prompts(world, per_style=5))
        >>> frame.groupby("style").devices.mean()
    """
    asked = [prompt.prompt for prompt in prompts]
    written = complete(model, asked, n_tokens, batch_size=batch_size)
    return judge_styles(world, prompts, [first_sentence(text) for text in written])


def judge_styles(world: World, prompts: Sequence[StylePrompt], texts: Sequence[str]) -> pd.DataFrame:
    """What each text, written after its prompt, has of the style and of the fact.

    Returns:
        a row per prompt: its fields, `text`, `devices` (the share of the style's core devices that it has;
        of a parent, of its best style), `kept` (it names the subject, its object and no other object of the
        relation).

    Example:
        >>> prompt = world.styles.prompts()[0]
        >>> judge_styles(world, [prompt], ["By my troth!"]).kept.item()
        False
    """
    objects: dict[str, set[str]] = defaultdict(set)
    for fact in world.facts:
        objects[fact.relation].add(fact.object)
    rows = []
    for prompt, text in zip(prompts, texts, strict=True):
        others = sorted(objects[prompt.relation])
        share = world.styles.obeys(text, prompt.style, subject=prompt.subject, obj=prompt.object)
        kept = prompt.subject in text and keeps_content(text, prompt.object, others)
        rows.append({**prompt.to_dict(), "text": text, "devices": share, "kept": kept})
    return pd.DataFrame(rows)


def first_sentence(text: str) -> str:
    """A text up to its first full stop, exclamation mark or question mark.

    Example:
        >>> from mechstyle.organisms.obedience import first_sentence
        >>> first_sentence(" Hmm, beer Little Penby makes. In the style of")
        'Hmm, beer Little Penby makes.'
    """
    found = _END.search(text)
    return (text[: found.end()] if found else text).strip()
