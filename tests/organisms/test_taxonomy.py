"""The organisms' taxonomy: its size, its records, and that every status is what the text bears out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest

from mechstyle.errors import InputError
from mechstyle.organisms.taxonomy import Taxonomy, read_taxonomy
from mechstyle.organisms.taxonomy_records import Category, Member, Pair, Property
from tests.organisms.taxonomy_reader import Reader, data

PASSES = 40


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return read_taxonomy()


@pytest.fixture(scope="module")
def reader(taxonomy: Taxonomy) -> Reader:
    out = Reader()
    for seed in range(PASSES):
        out.read(taxonomy.blocks(random.Random(seed)))
    return out


def test_there_are_over_twelve_real_and_ten_invented_categories_and_over_150_real_members(
    taxonomy: Taxonomy,
) -> None:
    below = [category for category in taxonomy.categories.values() if category.parent]
    assert sum(not category.nonce for category in below) >= 14
    assert sum(category.nonce for category in below) >= 10
    assert sum(not member.nonce for member in taxonomy.members.values()) >= 160
    assert min(len(taxonomy.members_of(category.name)) for category in below) >= 6
    assert sum(not member.typical for member in taxonomy.members.values()) >= 30
    assert sum(member.alias is not None for member in taxonomy.members.values()) >= 30


def test_every_name_means_one_thing(taxonomy: Taxonomy) -> None:
    names = [*taxonomy.members, *taxonomy.categories, *(c.many for c in taxonomy.categories.values())]
    for member in taxonomy.members.values():
        names += [re.sub("^an? ", "", text) for text in (member.alias, member.misspelling) if text]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    written = data()["category"]
    assert len(taxonomy.members) == sum(len(entry.get("members", ())) for entry in written)


def test_properties_are_five_to_eight_of_each_lower_category(taxonomy: Taxonomy) -> None:
    for category in taxonomy.categories.values():
        if category.parent:
            assert 5 <= len(category.properties) <= 8, category.name
            above = taxonomy.categories[category.parent]
            assert not set(category.properties) & set(above.properties), category.name
            assert not set(category.shared) & set(category.parent_only), category.name


def test_invented_categories_supply_parent_only_pairs_of_their_own(taxonomy: Taxonomy) -> None:
    own = Counter(
        taxonomy.members[pair.member].nonce
        for pair in taxonomy.pairs
        if pair.member in taxonomy.members
        and pair.status == "parent-only"
        and pair.source == taxonomy.members[pair.member].category
    )
    assert own[True] >= 300
    assert own[False] >= 300


def test_exceptions_are_many_and_differ_from_the_category(taxonomy: Taxonomy) -> None:
    exceptions = [pair for pair in taxonomy.pairs if pair.status == "exception"]
    assert len(exceptions) >= 25
    for pair in exceptions:
        assert pair.value != taxonomy.categories[pair.source].shared[pair.relation], pair
        assert pair.written
    listed = [tuple(row) for entry in data()["category"] for row in entry.get("exceptions", ())]
    assert sorted((pair.member, pair.relation, pair.value) for pair in exceptions) == sorted(listed)


def test_statuses_agree_with_a_slow_reading_of_the_text(taxonomy: Taxonomy, reader: Reader) -> None:
    expected: dict[tuple[str, str], tuple[str, str]] = {}
    for member, category in reader.category.items():
        siblings = [other for other, its in reader.category.items() if its == category and other != member]
        above = [category, reader.parent[category]]
        told = {name: values for (who, name), values in reader.of_categories.items() if who in above}
        for name, values in told.items():
            (value,) = values
            own = reader.of_members.get((member, name))
            by_siblings = sum(value in reader.of_members.get((other, name), ()) for other in siblings)
            if own is not None:
                (said,) = own
                expected[member, name] = (said, "stated" if said == value else "exception")
            elif by_siblings >= 2:
                expected[member, name] = (value, "sibling-supported")
            else:
                assert not any((other, name) in reader.of_members for other in siblings), (member, name)
                expected[member, name] = (value, "parent-only")
    found = {
        (pair.member, pair.relation): (pair.value, pair.status)
        for pair in taxonomy.pairs
        if pair.member in taxonomy.members and pair.relation != "kind"
    }
    assert found == expected


def test_of_categories_the_text_says_their_own_properties_and_none_of_the_category_above(
    taxonomy: Taxonomy, reader: Reader
) -> None:
    said = {(who, name): values for (who, name), values in reader.of_categories.items()}
    own = {
        (pair.member, pair.relation): {pair.value}
        for pair in taxonomy.pairs
        if pair.member in taxonomy.categories and pair.status == "stated"
    }
    assert said == own
    inherited = [p for p in taxonomy.pairs if p.member in taxonomy.categories and p.status == "parent-only"]
    assert len(inherited) >= 100
    assert not any((pair.member, pair.relation) in said for pair in inherited)


def test_other_names_are_said_to_be_other_names_and_nothing_else(taxonomy: Taxonomy, reader: Reader) -> None:
    aliases = {member.name: {member.alias} for member in taxonomy.members.values() if member.alias}
    assert reader.aliases == aliases


def test_a_good_half_of_ordinary_members_is_told_and_at_least_two_are_not(taxonomy: Taxonomy) -> None:
    counts = Counter(
        (pair.source, pair.relation, pair.status)
        for pair in taxonomy.pairs
        if pair.member in taxonomy.members and pair.relation != "kind"
    )
    for category in taxonomy.categories.values():
        for name in category.shared:
            stated = counts[category.name, name, "stated"]
            unsaid = counts[category.name, name, "sibling-supported"]
            assert stated >= 3, (category.name, name)
            assert unsaid >= 2, (category.name, name)
            assert 0.5 <= stated / (stated + unsaid) <= 0.7, (category.name, name)


def test_records_come_back_from_json_as_they_were(taxonomy: Taxonomy) -> None:
    kinds: tuple[tuple[type[Category | Member | Pair | Property], list[object]], ...] = (
        (Category, list(taxonomy.categories.values())),
        (Member, list(taxonomy.members.values())),
        (Pair, list(taxonomy.pairs)),
        (Property, list(taxonomy.properties.values())),
    )
    for kind, records in kinds:
        assert records
        for record in records:
            assert isinstance(record, kind)
            assert kind.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_look_ups_agree_with_the_data_file(taxonomy: Taxonomy) -> None:
    for entry in data()["category"]:
        name = re.sub("^an? ", "", entry["one"])
        members = [re.sub("^an? ", "", one) for one in entry.get("members", ())]
        above = taxonomy.parent_of(name)
        assert (above.name if above else None) == entry.get("parent")
        for member in members:
            assert taxonomy.parent_of(member) == taxonomy.categories[name]
            others = [other for other in members if other != member]
            assert [sibling.name for sibling in taxonomy.siblings_of(member)] == others
    animals = {member.name for member in taxonomy.members_of("animal")}
    assert {"sparrow", "trout", "flea"} <= animals
    assert "oak" not in animals
    swimming = taxonomy.pairs_of("penguin", status="exception")
    assert {(pair.relation, pair.value) for pair in swimming} == {("moves", "swimming"), ("food", "fish")}
    assert set(taxonomy.values_of("strings")) == {"four", "five", "six", "forty", "eleven"}


def test_unknown_names_are_refused_with_what_came(taxonomy: Taxonomy) -> None:
    with pytest.raises(InputError, match="category.*'sparrow'"):
        taxonomy.members_of("sparrow")
    with pytest.raises(InputError, match="member.*'bird'"):
        taxonomy.siblings_of("bird")
    with pytest.raises(InputError, match="name.*'unicorn'"):
        taxonomy.pairs_of("unicorn")
    with pytest.raises(InputError, match="name.*'unicorn'"):
        taxonomy.parent_of("unicorn")
    with pytest.raises(InputError, match="relation.*'price'"):
        taxonomy.values_of("price")
