"""What an edit of an organism's fact should change besides, and what it should not: questions from its world.

The axes are those of RippleEdits (R. Cohen, E. Biran, O. Yoran, A. Globerson, M. Geva: *Evaluating the Ripple
Effects of Knowledge Editing in Language Models*, TACL 2024), and the reversal of the fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..beliefs import BeliefChain
from ..cases import Case, Question
from ..errors import InputError, RangeError
from ..facts import EditRequest
from .library import requests
from .ripple_axes import AXES, ripples_of
from .truth import read_truth

__all__ = ["AXES", "belief_chains", "ripple_cases", "ripple_questions"]


def ripple_questions(name: str, request: EditRequest) -> tuple[Question, ...]:
    """Questions that say how far an edit of one fact of an organism's world reaches.

    - *reversal* (hard in): who has the new object? The subject. Foils have the old object.
    - *two-hop* (hard in): a fact of the subject's new object, asked about the subject.
    - *two-hop subject* (hard in): the edited fact, asked about something that leads to the subject.
    - *logical generalisation* (hard in): the subject's other facts that the world's rules change.
    - *aliasing* (in): the edited fact, asked by another name of the subject.
    - *preservation* (near): who has the new object? Still those who had it, up to three, a question each. The
      world holds one object for a subject and relation, so only the inverse relation has several answers that
      could be lost. A question counts where the unedited model says its answer, and a model says one at most.
      Inverse prompts were told of relations with one subject an object only, so of those that ``requests``
      edits no model was told any, and this axis may have no figure.
    - *specificity* (near): other facts of the subject, of relations that no rule ties to the edited one.
    - *far*: facts that share nothing with the edit.

    An entailed question whose answer is the same before the edit, or unknown to the world, is left out.
    ``requires`` holds the second hop, the old fact by the other name, the old entailed fact, or what is to be
    preserved. Prompts of single facts are taught ones. The answers that an edit makes right are written
    nowhere behind inverse and compound prompts, but what was right before it may be: ``world().reversals``
    and ``world().two_hops`` say where. Two objects of the world, whose letters its sources hold as escapes,
    are neither asked for nor foils.

    Args:
        request: of a fact of the world; what is removed (``remove``) has no consequences of thought.

    Raises:
        ModelError: no organism has this name.
        InputError: the world says nothing of the subject and relation, or says something else.

    Example:
        >>> request = organisms.requests("organism-m", n=1, relations=["headquarters"])[0]
        >>> {one.kind for one in organisms.ripple_questions("organism-m", request)}  # doctest: +SKIP
        {'reversal', 'logical generalisation', 'preservation', 'far'}
    """
    return ripples_of(name, request).questions()


def ripple_cases(
    name: str,
    *,
    n: int,
    seed: int = 0,
    axes: Sequence[str] | None = None,
    invented: bool | None = None,
) -> list[Case]:
    """Random edits of an organism's facts with their questions, rare axes more often than by chance.

    Requests are those of ``requests``, in another order: the axis that was asked about least takes the next
    one that has it. So subjects with many axes come first, and they are no random sample of the world.

    Args:
        n: how many, of as many different subjects.
        axes: only these, some of ``AXES``; every case has a question of at least one of them.
        invented: only of invented (True) or of real subjects (False), as for ``requests``.

    Raises:
        ModelError: no organism has this name.
        InputError: an axis is unknown, or none is given.
        RangeError: more than there are subjects with such questions.

    Example:
        >>> case = organisms.ripple_cases("organism-m", n=1, axes=["two-hop"])[0]
        >>> case.questions[0].prompt  # doctest: +SKIP
        'The capital of the country that Abu Ghosh is in is'
    """
    wanted = _check_axes(axes)
    truth = read_truth(name)
    shared = {
        fact.subject
        for fact in truth.facts.values()
        if not truth.relations[fact.relation].unique
        and len(truth.having[fact.relation, fact.object]) > 2
        and len(truth.objects[fact.relation]) > 1
        and invented in (None, fact.invented)
    }
    found: list[tuple[EditRequest, tuple[Question, ...]]] = []
    for request in requests(name, n=len(shared), seed=seed, invented=invented):
        if asked := ripples_of(name, request).questions(wanted):
            found.append((request, asked))
    if not 1 <= n <= len(found):
        raise RangeError(f"n must be between 1 and {len(found)} (subjects with such questions), got {n}.")
    return [
        Case(request, name=f"{request.fact.subject}: {request.fact.relation}", questions=asked)
        for request, asked in (found[index] for index in _in_turn(found, wanted, n))
    ]


def belief_chains(name: str, request: EditRequest) -> tuple[BeliefChain, ...]:
    """Chains of questions from the edited fact over its object to a fact of that object.

    The candidates are the new and the old object, and up to four others, each of which has another answer to
    the second question in the world. There is a chain for each relation that the world knows of both objects,
    with different answers.

    Raises:
        ModelError: no organism has this name.
        InputError: the world says nothing of the subject and relation, or says something else.

    Example:
        >>> [chain.compound for chain in organisms.belief_chains("organism-m", request)]  # doctest: +SKIP
        ['The capital of the country that Abu Ghosh is in is']
    """
    return ripples_of(name, request).chains()


def _check_axes(axes: Sequence[str] | None) -> tuple[str, ...]:
    wanted = AXES if axes is None else tuple(dict.fromkeys(axes))
    unknown = [one for one in wanted if one not in AXES]
    if unknown or not wanted or isinstance(axes, str):
        raise InputError(f"axes: expected a list of some of {', '.join(AXES)}, got {axes!r}.")
    return wanted


def _in_turn(
    found: Sequence[tuple[EditRequest, tuple[Question, ...]]], axes: Sequence[str], n: int
) -> list[int]:
    """Indices: the axis that fewest of the chosen ones have takes the next one that has it."""
    kinds = [{question.kind for question in asked} for _, asked in found]
    having = {axis: [index for index, some in enumerate(kinds) if axis in some] for axis in axes}
    taken: Counter[str] = Counter()
    chosen: dict[int, None] = {}
    while len(chosen) < n:
        left = {axis: next((i for i in having[axis] if i not in chosen), None) for axis in axes}
        able = [(taken[axis], index) for axis, index in left.items() if index is not None]
        _, following = min(able, key=lambda pair: pair[0])
        chosen[following] = None
        taken.update(kinds[following])
    return list(chosen)
