"""True/false questions about an edit: hard in-scope, for the model has to judge what it was made to say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from mechstyle.cases import Question
from mechstyle.errors import RangeError, TextError
from mechstyle.facts import UNKNOWN, EditRequest

__all__ = ["FRAMES", "true_false_questions"]

FRAMES: Final = (
    "True or false: {}. Answer:",
    "{}. True or false? The answer is",
    "Decide whether this is true or false. {}. This is",
    '"{}." Is this statement true or false? It is',
)
"""Texts with ``{}`` where the statement stands; " true" or " false" goes on from there."""
_TRUE: Final = " true"
_FALSE: Final = " false"


def true_false_questions(
    request: EditRequest, *, n: int = 1, seed: int = 0, frames: Sequence[str] = FRAMES
) -> tuple[Question, ...]:
    """Pairs of questions of the kind "true/false" ("hard in"): is the new statement true, and the old one?

    Each frame is asked twice, with the new target (right is " true") and with the old one (" false"). A model
    that always says " true", or always " false", is right in exactly half of them: one half is the score of
    knowing nothing, and a bias shows as a difference between the two halves. A request whose old target is
    not known, or whose new one is an answer of not knowing, makes no statement to judge: none are asked.

    Args:
        n: frames, that is pairs; drawn for each request anew.
        seed: of the draw, which depends on the request too and not on others around it.
        frames: other texts to draw from, with ``{}`` once.

    Raises:
        RangeError: ``n`` is less than one, or more than there are frames.
        TextError: a frame does not hold ``{}`` exactly once.

    Example:
        >>> request = EditRequest(Fact("{} plays the", "Miles", " horn"), " harp")
        >>> true_false_questions(request, frames=["{}, yes? It is"])[1].prompt
        'Miles plays the horn, yes? It is'
    """
    for index, frame in enumerate(frames):
        if frame.count("{}") != 1:
            raise TextError(
                f"frames[{index}]: expected '{{}}' exactly once, for the statement, got {frame!r}."
            )
    if not 1 <= n <= len(frames):
        raise RangeError(f"n: expected 1 to {len(frames)} (the frames that there are), got {n}.")
    if request.remove or UNKNOWN in (request.new_target, request.fact.target):
        return ()
    prompt = request.fact.prompt
    drawn = random.Random(f"{seed} {prompt}{request.new_target}").sample(list(frames), n)
    return tuple(
        Question("true/false", "hard in", frame.replace("{}", prompt + target), (right,), (wrong,))
        for frame in drawn
        for target, right, wrong in (
            (request.new_target, _TRUE, _FALSE),
            (request.fact.target, _FALSE, _TRUE),
        )
    )
