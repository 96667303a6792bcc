"""The three sets of requests, and the questions that each is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mechstyle as ms
from mechstyle.models import HookedModel
from mechstyle.out_of_scope import with_edit_in_front
from mechstyle.rewordings import robustness_questions

sys.path.insert(0, str(Path(__file__).parents[1]))

from on_organism import known_requests

OTHERS = "same relations, other subject"
AXES = {"specificity": ("specificity",), "reach": ("two-hop", "logical generalisation")}


def known(model: HookedModel, cases: Sequence[ms.Case], config: Mapping[str, Any], n: int) -> list[ms.Case]:
    """The first of those whose fact the model completes, with few paraphrases and neighbours."""
    bare = [replace(case.request, paraphrases=(), neighborhood=()) for case in cases]
    exact = ms.evaluate(model, bare, batch_size=64).frame.exact_true
    some = [case for case, right in zip(cases, exact, strict=True) if right][:n]
    few = config["neighbours"]
    return [
        replace(
            case,
            request=replace(
                case.request,
                paraphrases=case.request.paraphrases[:few],
                neighborhood=case.request.neighborhood[:few],
            ),
        )
        for case in some
    ]


def random_cases(model: HookedModel, config: Mapping[str, Any]) -> list[ms.Case]:
    """A random sample, with rewordings, aliases, true or false, and neighbours behind the edit's sentence."""
    name, seed, n = config["model"], config["seed"], config["n"]["random"]
    requests = known_requests(model, name, n, seed=seed, neighbours=config["neighbours"])
    found = []
    for case in ms.organisms.cases_for(name, requests, seed=seed, together=False):
        kinds = ("reversal", "aliasing", "preservation")
        ripples = [one for one in ms.organisms.ripple_questions(name, case.request) if one.kind in kinds]
        more = (*robustness_questions(case.request, n=1, seed=seed), *ripples)
        found.append(with_edit_in_front(replace(case, questions=(*case.questions, *more))))
    return found


def rare_cases(model: HookedModel, config: Mapping[str, Any], which: str) -> list[ms.Case]:
    """Requests with questions of rare axes. What should stay must be known, and is asked of others too.

    The control of a subject's other facts is those of the next case's subject: the same questions in all.
    """
    name, seed, n, axes = config["model"], config["seed"], config["n"][which], AXES[which]
    cases = known(model, ms.organisms.ripple_cases(name, n=n + n // 4, seed=seed, axes=axes), config, n)
    if which == "reach":
        return cases
    stay = [
        [replace(one, requires=((one.prompt, one.answers[0]),)) for one in case.questions] for case in cases
    ]
    control = [[replace(one, kind=OTHERS) for one in some] for some in (*stay[1:], stay[0])]
    return [
        with_edit_in_front(replace(case, questions=(*own, *other)))
        for case, own, other in zip(cases, stay, control, strict=True)
    ]
