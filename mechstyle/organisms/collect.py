"""Choose the world's facts from the public data sets and write them as `data/facts.jsonl`.

Run once by whoever has the raw data; users get the chosen facts and prose with the package:
`python -m mechstyle.organisms.collect FACTS BOOKS mechstyle/organisms/data`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import atomic_write
from ..records import write_json_lines
from .packaged import Row
from .prose import collect_prose, compress_prose
from .relations import Relation, read_derivations, read_relations

__all__ = ["collect"]


def _raw_facts(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """(subject, source relation, object, data set) of the three data sets."""
    for path in sorted((source / "relations_lre" / "factual").glob("*.json")):
        for sample in json.loads(path.read_text(encoding="utf-8"))["samples"]:
            yield sample["subject"], path.stem, sample["object"], "relations_lre"
    for record in json.loads((source / "counterfact" / "counterfact.json").read_text(encoding="utf-8")):
        rewrite = record["requested_rewrite"]
        yield rewrite["subject"], rewrite["relation_id"], rewrite["target_true"]["str"], "counterfact"
    for record in json.loads((source / "known_1000" / "known_1000.json").read_text(encoding="utf-8")):
        yield record["subject"], record["relation_id"], record["attribute"], "known_1000"


def _usable(subject: str, obj: str) -> bool:
    """A name that can be said, and an object that the subject does not give away."""
    plain = all(ord(c) < 0x250 or c in "–—’ʻ" for c in subject + obj)
    return plain and subject[0].isalpha() and 2 <= len(subject) <= 40 and obj.lower() not in subject.lower()


def collect(source: Path, *, seed: int = 0) -> list[Row]:
    """Choose facts: one object a (subject, relation), many-fact subjects first, capped.

    Args:
        source: the folder that holds `relations_lre/`, `counterfact/` and `known_1000/`.
        seed: orders facts of equal rank.
    """
    relations = read_relations()
    by_source = {name: relation for relation in relations.values() for name in relation.sources}
    objects: dict[tuple[str, str], set[str]] = defaultdict(set)
    origin: dict[tuple[str, str], str] = {}
    for subject, raw_relation, obj, dataset in _raw_facts(source):
        relation = by_source.get(raw_relation)
        subject, obj = subject.strip(), obj.strip()
        if relation is not None and _usable(subject, obj):
            objects[subject, relation.name].add(obj)
            origin.setdefault((subject, relation.name), dataset)
    single = {key: next(iter(found)) for key, found in objects.items() if len(found) == 1}
    chosen = _choose(single, relations, random.Random(seed))
    rows = [
        {"subject": s, "relation": r, "object": o, "source": origin[s, r]}
        for (s, r), o in sorted(chosen.items())
    ]
    return rows + _derive(chosen, objects)


def _choose(
    single: dict[tuple[str, str], str], relations: dict[str, Relation], order: random.Random
) -> dict[tuple[str, str], str]:
    facts_of = Counter(subject for subject, _ in single)
    shared = Counter((relation, obj) for (_, relation), obj in single.items())
    keys = sorted(single)
    order.shuffle(keys)
    keys.sort(key=lambda key: -facts_of[key[0]])
    chosen: dict[tuple[str, str], str] = {}
    taken: Counter[object] = Counter()
    for subject, name in keys:
        relation, obj = relations[name], single[subject, name]
        if relation.unique and facts_of[subject] < 2:
            continue
        if not relation.unique and shared[name, obj] < 3:
            continue
        if taken[name] >= relation.cap or taken[name, obj] >= relation.object_cap:
            continue
        taken[name] += 1
        taken[name, obj] += 1
        chosen[subject, name] = obj
    return chosen


def _derive(chosen: dict[tuple[str, str], str], known: dict[tuple[str, str], set[str]]) -> list[Row]:
    """Consequences of chosen facts, where no data set says anything of that subject and relation."""
    rows = []
    for rule in read_derivations():
        for (subject, relation), obj in sorted(chosen.items()):
            if relation == rule.source and obj in rule.table and (subject, rule.target) not in known:
                consequence = rule.table[obj]
                if _usable(subject, consequence):
                    rows.append(
                        {
                            "subject": subject,
                            "relation": rule.target,
                            "object": consequence,
                            "source": rule.name,
                        }
                    )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Choose the world's facts and passages of prose.")
    parser.add_argument("facts", type=Path, help="folder with relations_lre/, counterfact/, known_1000/")
    parser.add_argument("books", type=Path, help="folder of plain-text books in the public domain")
    parser.add_argument("out", type=Path, help="folder that receives facts.jsonl and prose.txt.xz")
    options = parser.parse_args(arguments)
    write_json_lines(options.out / "facts.jsonl", collect(options.facts))
    with atomic_write(options.out / "prose.txt.xz") as temporary:
        temporary.write_bytes(compress_prose(collect_prose(options.books)))


if __name__ == "__main__":
    main()
