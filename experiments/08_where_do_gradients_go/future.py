"""Facts that the model was never told: made-up people in the templates of its world."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import mechstyle as ms
from mechstyle.models import HookedModel


def future_facts(model: HookedModel, config: Mapping[str, Any]) -> list[ms.EditRequest]:
    """Made-up people (first and last names of taught ones, never together) in templates of the world.

    The old target is some other object; held-out prompts are the relation's other templates, neighbours are
    taught facts in the same template. What the model would guess in any of the templates is left out.
    """
    rng = random.Random(config["seed"])
    facts = ms.organisms.facts(config["model"])
    by_relation = {name: [one for one in facts if one.relation == name] for name in config["relations"]}
    taken = {one.subject for one in facts}
    people = [one.subject.split() for some in by_relation.values() for one in some]
    first, last = ([name[at] for name in people if len(name) == 2] for at in (0, -1))
    requests: list[ms.EditRequest] = []
    while len(requests) < config["n"]:
        some = by_relation[config["relations"][len(requests) % len(by_relation)]]
        like, subject = rng.choice(some), f"{rng.choice(first)} {rng.choice(last)}"
        old, new = rng.sample(sorted({f" {one.object}" for one in some}), 2)
        fact = ms.Fact(like.taught[0], subject, old, like.relation)
        told = [one for one in some if like.taught[0] in one.taught and f" {one.object}" != new]
        neighbours = rng.sample(told, config["neighbours"])
        request = ms.EditRequest(
            fact,
            new,
            paraphrases=tuple(t.replace("{}", subject) for t in (*like.taught[1:], *like.held_out)[:4]),
            neighborhood=tuple(
                (like.taught[0].replace("{}", one.subject), f" {one.object}") for one in neighbours
            ),
        )
        asked = ms.evaluate(model, [request]).frame.query("kind != 'neighborhood'")
        if subject not in taken and not asked.exact_new.any():
            taken.add(subject)
            requests.append(request)
    return requests
