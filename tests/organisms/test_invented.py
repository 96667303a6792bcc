"""Invented subjects: what they are called, what is said of them, and that nothing gives anything away."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from mechstyle.errors import RangeError
from mechstyle.organisms import collect, future, invented
from mechstyle.organisms.future import future_facts, future_rows
from mechstyle.organisms.invented import (
    assign,
    invented_rows,
    invented_subjects,
    similar_pairs,
)
from mechstyle.organisms.invented_names import Shape, near, new_names, read_kinds
from mechstyle.organisms.packaged import read_rows, read_toml
from mechstyle.organisms.relations import read_relations

DATA = Path(invented.__file__).parent / "data"
ROWS = read_rows("invented.jsonl")
REAL = read_rows("facts.jsonl")
FUTURE = read_rows("future.jsonl")
KIND_OF = {relation: kind.name for kind in read_kinds().values() for relation in kind.relations}
UNIQUE = {"place_mayor", "firm_founder"}
FUTURE_TEMPLATES = {fact.relation: fact.held_out for fact in future_facts()}
TEMPLATES = {name: relation.templates for name, relation in read_relations().items()} | FUTURE_TEMPLATES
OF_INVENTED = [(r, t) for r in (*KIND_OF, *FUTURE_TEMPLATES) for t in TEMPLATES[r]]


def subjects() -> dict[str, list[str]]:
    """Subjects of the rows by kind, in the rows' order."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row in ROWS:
        found[KIND_OF[row["relation"]]][row["subject"]] = None
    return {kind: list(names) for kind, names in found.items()}


def edits(first: str, second: str) -> int:
    """Letters to change, add or leave out, counted the slow way (Levenshtein)."""
    above = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


@pytest.mark.parametrize(
    ("file", "make"), [("invented", invented), ("future", future)], ids=["taught", "future"]
)
def test_the_packaged_file_is_what_the_code_writes(tmp_path: Path, file: str, make: object) -> None:
    make.main(["--out", str(tmp_path / "rows.jsonl")])  # type: ignore[attr-defined]
    assert (tmp_path / "rows.jsonl").read_bytes() == (DATA / f"{file}.jsonl").read_bytes()


@pytest.mark.parametrize("make", [invented_rows, future_rows])
def test_rows_are_a_function_of_their_seed(make: object) -> None:
    assert make(seed=3) == make(seed=3) != make(seed=4)  # type: ignore[operator]


def test_there_are_860_subjects_of_five_or_six_facts_each() -> None:
    found = subjects()
    assert {kind: len(names) for kind, names in found.items()} == {"person": 420, "place": 220, "firm": 220}
    assert found == invented_subjects()
    counts = Counter(row["subject"] for row in ROWS)
    most = {kind.name: len(kind.relations) for kind in read_kinds().values()}
    thinned = {kind: sum(counts[name] < most[kind] for name in names) for kind, names in found.items()}
    assert set(counts.values()) == {5, 6}
    assert thinned == {"person": 140, "place": 70, "firm": 0}
    assert len({(row["subject"], row["relation"]) for row in ROWS}) == len(ROWS) > 4700


def test_objects_are_shared_by_three_or_more_subjects_or_by_none() -> None:
    shares: dict[str, Counter[str]] = defaultdict(Counter)
    for row in ROWS:
        shares[row["relation"]][row["object"]] += 1
    assert set(shares) == set(KIND_OF)
    for relation, counts in shares.items():
        if relation in UNIQUE:
            assert set(counts.values()) == {1}
        else:
            assert min(counts.values()) >= 3
            assert len(counts) >= 10
            assert max(counts.values()) - min(counts.values()) <= 1
        assert read_relations()[relation].unique == (relation in UNIQUE)


def test_objects_that_are_names_are_subjects_of_the_right_kind() -> None:
    entries, names = read_toml("invented.toml")["objects"], subjects()
    pointed = {relation: entry["kind"] for relation, entry in entries.items() if isinstance(entry, dict)}
    assert pointed == {
        "person_home": "place",
        "person_firm": "firm",
        "place_mayor": "person",
        "firm_seat": "place",
        "firm_founder": "person",
    }
    for row in ROWS + FUTURE:
        if row["relation"] in pointed:
            assert row["object"] in names[pointed[row["relation"]]]


def test_no_relation_tells_of_another_more_than_chance_does() -> None:
    """Subjects that share both objects are rarely more than in all of 99 shuffles of one of the two."""
    objects: dict[str, dict[str, str]] = defaultdict(dict)
    for row in ROWS:
        objects[row["relation"]][row["subject"]] = row["object"]
    rng, surprising, pairs = random.Random(0), [], 0
    for kind in read_kinds().values():
        for one, other in combinations(kind.relations, 2):
            both = [name for name in objects[one] if name in objects[other]]
            left, right = [objects[one][n] for n in both], [objects[other][n] for n in both]
            repeats = []
            for _ in range(100):
                repeats.append(_agreement(left, right))
                rng.shuffle(right)
            pairs += 1
            surprising += [(one, other)] if repeats[0] > max(repeats[1:]) else []
    assert pairs == 40
    assert len(surprising) <= 3  # of 40 pairs with chance 1/100 each, four or more come once in 1,300 worlds


def _agreement(left: list[str], right: list[str]) -> int:
    """Pairs of subjects that share both objects."""
    return sum(n * (n - 1) // 2 for n in Counter(zip(left, right, strict=True)).values())


def test_no_subject_gives_its_object_away() -> None:
    assert [row for row in ROWS + FUTURE if row["object"].lower() in row["subject"].lower()] == []


def test_no_name_is_inside_another_name_or_object_or_template() -> None:
    names = sorted({row["subject"] for row in ROWS + FUTURE if row["relation"] in KIND_OF})
    objects = {row["object"] for row in ROWS + FUTURE} - set(names)
    real = {row[part] for row in REAL for part in ("subject", "object")}
    every = "\n".join([*names, *sorted(objects | real), *(t for ts in TEMPLATES.values() for t in ts)])
    assert len(names) == 860 + 60
    assert [name for name in names if every.count(name) != 1] == []


def test_no_word_of_a_real_name_stands_in_the_name_of_an_invented_person() -> None:
    real = {word for row in REAL for word in re.findall(r"\w+", row["subject"] + " " + row["object"])}
    people = {word for name in subjects()["person"] for word in name.split()}
    assert people & real == set()


def test_parts_of_names_are_shared() -> None:
    people = subjects()["person"]
    first = Counter(name.split()[0] for name in people)
    last = Counter(name.split()[1] for name in people)
    assert len(first) == 60
    assert min(first.values()) >= 4
    assert len(last) == 140 + 38  # of 40 words in similar pairs, two (Tolvane, Halmond) are in the stock too
    assert set(last.values()) == {1, 2, 3, 4}


def test_similar_subjects_are_one_letter_apart_and_differ_in_every_object() -> None:
    objects: dict[str, dict[str, str]] = defaultdict(dict)
    for row in ROWS:
        objects[row["subject"]][row["relation"]] = row["object"]
    pairs = similar_pairs()
    assert len(pairs) == 40
    assert len({name for pair in pairs for name in pair}) == 80
    for first, second in pairs:
        assert edits(first, second) == 1
        common = objects[first].keys() & objects[second].keys()
        assert len(common) >= 4
        assert [
            relation for relation in common if objects[first][relation] == objects[second][relation]
        ] == []


def test_subjects_that_are_no_similar_pair_are_two_letters_apart_or_more() -> None:
    pairs = {frozenset(pair) for pair in similar_pairs()}
    names = sorted({row["subject"] for row in ROWS + FUTURE if row["relation"] in KIND_OF})
    owner: dict[str, str] = {}
    for name in names:
        for pattern in sorted(near(name)):
            other = owner.setdefault(pattern, name)
            assert other == name or frozenset((name, other)) in pairs


def test_names_share_a_pattern_when_and_only_when_one_edit_makes_them_equal() -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(60)]
    verdicts = {(a, b): edits(a, b) <= 1 for a in words for b in words}
    assert set(verdicts.values()) == {True, False}
    assert [pair for pair, close in verdicts.items() if bool(near(pair[0]) & near(pair[1])) != close] == []


def test_stocks_that_are_used_up_say_so() -> None:
    shape = Shape((("Mira", "Jorin"), ("Tolvane",)), 2)
    assert sorted(new_names(shape, 2, random.Random(0), taken=[])) == ["Jorin Tolvane", "Mira Tolvane"]
    with pytest.raises(RangeError, match="count is 2, but the words make only 1 free names"):
        new_names(shape, 2, random.Random(0), taken=["Mora Tolvane"])


def test_objects_are_dealt_out_equally_and_mended_where_they_clash() -> None:
    names = [f"name {i}" for i in range(23)] + ["a fox"]
    partner = {"name 0": "name 1", "name 1": "name 0"}
    for seed in range(30):
        given = assign(names, ["fox", "cat", "dog", "hen", "owl"], random.Random(seed), partner=partner)
        assert sorted(Counter(given.values()).values()) == [4, 5, 5, 5, 5]
        assert given["a fox"] != "fox"
        assert given["name 0"] != given["name 1"]


def test_relations_of_invented_subjects_have_seven_templates_and_no_source() -> None:
    relations = read_relations()
    for name in KIND_OF:
        assert len(relations[name].templates) >= 7
        assert 2 <= len(relations[name].pronoun) <= 3
        assert relations[name].sources == ()
        inner = [t for t in relations[name].templates if not t.startswith("{}")]
        assert 3 <= len(inner) <= 6, name


def test_no_prompt_begins_another_and_no_template_stands_within_another() -> None:
    told = [(relation, template) for relation, ts in TEMPLATES.items() for template in ts]
    for one in OF_INVENTED:
        for other in told:
            if one != other:
                assert one[1] not in other[1]
                assert other[1] not in one[1]
    pronouns = [sentence for relation in read_relations().values() for sentence in relation.pronoun]
    mine = [sentence for name in KIND_OF for sentence in read_relations()[name].pronoun]
    for sentence in mine:
        assert [s for s in pronouns if s.startswith(sentence) or sentence.startswith(s)] == [sentence]


def test_a_word_after_an_article_begins_with_a_consonant() -> None:
    """ "...is a" is said of every object of the relation: so none may begin with a vowel."""
    for row in ROWS + FUTURE:
        article = any(template.split()[-1] == "a" for template in TEMPLATES[row["relation"]])
        assert not article or row["object"][0].lower() not in "aeiou"


def test_sources_feed_no_relation_of_invented_subjects(tmp_path: Path) -> None:
    folder = tmp_path / "relations_lre" / "factual"
    folder.mkdir(parents=True)
    samples = [{"subject": f"Player {i}", "object": "violin"} for i in range(3)]
    for file in ("person_plays_instrument", "person_trade", ""):
        (folder / f"{file}.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    for dataset, file in (("counterfact", "counterfact"), ("known_1000", "known_1000")):
        (tmp_path / dataset).mkdir()
        (tmp_path / dataset / f"{file}.json").write_text("[]", encoding="utf-8")
    assert {row["relation"] for row in collect.collect(tmp_path)} == {"plays_instrument"}


def test_new_subjects_of_future_facts_occur_nowhere_in_what_is_taught() -> None:
    text = "\n".join(f"{row['subject']}\n{row['object']}" for row in ROWS + REAL)
    new = Counter(row["subject"] for row in FUTURE if row["relation"] in KIND_OF)
    assert len(new) == 60
    assert set(new.values()) == {4, 5}
    assert [name for name in new if name in text] == []


def test_new_subjects_have_objects_that_others_are_taught_with() -> None:
    taught = {(row["relation"], row["object"]) for row in ROWS}
    known = {row["subject"] for row in ROWS}
    for row in FUTURE:
        if row["relation"] in UNIQUE:
            assert (row["relation"], row["object"]) not in taught
            assert row["object"] in known
        elif row["relation"] in KIND_OF:
            assert (row["relation"], row["object"]) in taught


def test_future_relations_are_of_taught_subjects_and_unknown_to_the_world() -> None:
    new = [row for row in FUTURE if row["relation"] not in KIND_OF]
    real, made = ({row["subject"] for row in rows} for rows in (REAL, ROWS))
    assert len(new) == 150
    assert {row["relation"] for row in new}.isdisjoint(read_relations())
    assert sum(row["subject"] in real for row in new) == 70
    assert sum(row["subject"] in made for row in new) == 80
    assert len({row["subject"] for row in new}) == 150


def test_future_facts_are_rows_with_every_template_held_out() -> None:
    facts = future_facts()
    assert [(f.subject, f.relation, f.object, f.source) for f in facts] == [
        tuple(row.values()) for row in FUTURE
    ]
    assert {fact.taught for fact in facts} == {()}
    assert {len(set(fact.held_out)) for fact in facts} == {6, 8}
