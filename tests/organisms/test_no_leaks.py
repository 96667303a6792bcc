"""The proof on the generator: what is held out is nowhere in the training text, and the text is frozen."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import pytest

from mechstyle.organisms.export import Record, json_lines, world_records
from mechstyle.organisms.items import Item
from mechstyle.organisms.mixing import documents
from mechstyle.organisms.recipe import packaged_recipe, packaged_sizes
from mechstyle.organisms.style_records import Content
from mechstyle.organisms.world import build_world, read_prose, world
from tests.organisms.leak_search import Search, StyleReader, whole_training_text

THREE_PASSES = 7_200
"""Documents."""

FROZEN = {
    "facts": "2f46f7086979",
    "future": "5bce0e940c28",
    "reversals": "ba4981e345d7",
    "two_hops": "fa0a7e0bd70b",
    "properties": "888200033d4c",
    "categories": "b6177f1512c5",
    "members": "7459c4fc628c",
    "pairs": "4d6e054246d5",
    "devices": "1808370c2da4",
    "styles": "52a2da441375",
    "contents": "8bb5dc9bbc8b",
    "style_prompts": "ca157082c6bb",
    "items": "31dcdbebba76",
    "documents": "4c32ee5d267e",
}
"""First digits of the sha256 of each file of JSON lines, and of the first 2,000 training documents."""

CHANGED = (
    "the world changed: {}. Models that were trained on it, and every figure about them, are void. Undo the "
    "change; or train all sizes again (mechstyle organisms train), raise `version` in their recipes, measure "
    "their cards again, and pin the new digests here."
)


def training_text() -> Iterator[str]:
    """The documents that the embedded models read, without end."""
    recipe = packaged_recipe("s")
    return documents(build_world(seed=recipe.world_seed), read_prose(), seed=recipe.seed + 1)


def sentences(*, written: bool) -> set[str]:
    return {item.sentence for item in world().items() if item.written == written}


@cache
def records() -> Mapping[str, Sequence[Record]]:
    return world_records(world())


def readers() -> tuple[Search, StyleReader]:
    styles = world().styles
    return Search(sentences(written=False)), StyleReader(styles.styles, styles.contents)


def held_out_styles_said(reader: StyleReader) -> list[tuple[Content, str, list[str]]]:
    found = [
        (content, style, reader.may_be(content, style)) for content, style in sorted(world().styles.held_out)
    ]
    return [one for one in found if one[2]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def test_no_question_is_both_written_and_held_out() -> None:
    assert sentences(written=True) & sentences(written=False) == set()


def test_what_is_held_out_is_nowhere_in_three_passes_of_the_training_text() -> None:
    search, styles = readers()
    for document in itertools.islice(training_text(), THREE_PASSES):
        search.read(document)
        styles.read(document)
    assert len(search.missing) > 60_000
    assert not search.found, search.found
    assert held_out_styles_said(styles) == []
    told = world().styles.taught()[::10]
    assert sum(bool(styles.may_be(content, style.name)) for content, style in told) > 0.4 * len(told)


@pytest.mark.slow
def test_the_whole_training_text_holds_what_is_written_and_nothing_that_is_held_out() -> None:
    """The text of the longest training; two minutes on an idle core."""
    recipe = max((packaged_recipe(size) for size in packaged_sizes()), key=lambda one: one.tokens)
    search, styles = readers()
    told = Search(sentences(written=True))
    for document in whole_training_text(training_text(), tokens=recipe.tokens, n_ctx=recipe.n_ctx):
        search.read(document)
        styles.read(document)
        told.read(document)
    assert not search.found, search.found
    assert held_out_styles_said(styles) == []
    assert told.missing == []
    assert [pair for pair in world().styles.taught() if not styles.may_be(pair[0], pair[1].name)] == []


def test_the_search_finds_a_planted_sentence_whatever_its_case_and_over_the_border_of_blocks() -> None:
    wanted = "Mira Tolvane plays the harp"
    for hidden in (
        "It rained. Mira Tolvane plays the harp. It rained.",
        "They say that MIRA TOLVANE plays the harp, and she sings.",
        "(“Mira Tolvane plays the harp”)",
        " ".join(("I met Mira Tolvane", "plays the harp.")),
    ):
        search = Search([wanted])
        search.read(hidden)
        assert set(search.found) == {wanted}, hidden
    for other in (
        "Mira Tolvane plays the harpsichord.",
        "Almira Tolvane plays the harp.",
        "Mira Tolvane plays.",
    ):
        search = Search([wanted])
        search.read(other)
        assert search.missing == [wanted]


def test_the_reader_of_styles_finds_every_held_out_pair_when_it_is_planted() -> None:
    styles = world().styles
    _, reader = readers()
    for content in styles.contents:
        said = styles.parallel(content)
        reader.read(" ".join(["It rained.", *(one.text for one in said.values()), "It rained."]))
    assert len(held_out_styles_said(reader)) == len(styles.held_out)


def test_an_announcement_of_a_held_out_style_is_found_whatever_follows() -> None:
    content, name = min(world().styles.held_out)
    _, reader = readers()
    topic = world().styles.writer.topic(content)
    said = f"In the style of a {name}, on {topic}: {content.subject} and {content.object}."
    reader.read(said)
    assert reader.may_be(content, name) == [said]


def test_every_prefix_of_the_text_that_is_counted_as_read_is_at_least_what_is_asked_for() -> None:
    short = list(whole_training_text(iter(["one two, three."] * 9), tokens=12, n_ctx=128))
    assert len(short) == 2, "six pieces each: three words, a comma, a full stop, and the end"
    long = list(whole_training_text(iter(["word " * 500] * 9), tokens=256, n_ctx=128))
    assert len(long) == 2, "a row holds no more than its length of a document"


@pytest.mark.parametrize("name", sorted(FROZEN.keys() - {"documents"}))
def test_the_world_is_frozen(name: str) -> None:
    rows = [record.to_dict() for record in records()[name]]
    assert digest(json_lines(rows)) == FROZEN[name], CHANGED.format(name)


def test_the_training_text_is_frozen() -> None:
    text = "\n".join(itertools.islice(training_text(), 2000))
    assert digest(text) == FROZEN["documents"], CHANGED.format("its text")


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_text_does_not_hang_on_the_order_of_hashes(hash_seed: str) -> None:
    code = (
        "import hashlib, itertools\n"
        "from mechstyle.organisms.mixing import documents\n"
        "from mechstyle.organisms.world import build_world, read_prose\n"
        "text = '\\n'.join(itertools.islice(documents(build_world(), read_prose(), seed=1), 2000))\n"
        "print(hashlib.sha256(text.encode('utf-8')).hexdigest()[:12])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == FROZEN["documents"]


def test_all_sizes_read_the_same_text() -> None:
    assert {(one.world_seed, one.seed, one.n_ctx) for one in map(packaged_recipe, packaged_sizes())} == {
        (0, 0, 128)
    }


def test_the_same_seed_gives_the_same_text_and_another_one_another() -> None:
    def some(*, world_seed: int, seed: int) -> list[str]:
        return list(itertools.islice(documents(build_world(seed=world_seed), read_prose(), seed=seed), 300))

    assert some(world_seed=0, seed=1) == some(world_seed=0, seed=1)
    assert some(world_seed=0, seed=1) != some(world_seed=0, seed=2)
    assert some(world_seed=0, seed=1) != some(world_seed=5, seed=1)


def held_out_facts(items: list[Item]) -> set[str]:
    return {item.sentence for item in items if item.part == "fact" and item.status == "held out"}


def test_another_world_holds_other_sentences_out() -> None:
    one, other = held_out_facts(world().items()), held_out_facts(build_world(seed=5).items())
    assert 0.2 < len(one & other) / len(one) < 0.6
