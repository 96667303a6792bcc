"""The taxonomy's text and questions: nothing unwritten is written, and what is written is found."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from mechstyle.organisms.items import Item
from mechstyle.organisms.taxonomy import Taxonomy, read_taxonomy

PASSES = 60

OFTEN = 0.3
"""Every stated sentence by name comes in at least so large a part of passes."""


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return read_taxonomy()


@pytest.fixture(scope="module")
def items(taxonomy: Taxonomy) -> list[Item]:
    return taxonomy.items()


@pytest.fixture(scope="module")
def passes(taxonomy: Taxonomy) -> list[list[str]]:
    return [taxonomy.blocks(random.Random(seed)) for seed in range(PASSES)]


def _found(sentences: list[str], passes: list[list[str]]) -> Counter[str]:
    """In how many passes each of the sentences stands, in any case of its letters, even in longer ones."""
    by_start = defaultdict(list)
    for sentence in sorted(set(sentences)):
        by_start[tuple(sentence.lower().split()[:2])].append(sentence)
    out: Counter[str] = Counter()
    for blocks in passes:
        here = set()
        for block in sorted(set(blocks)):
            text = block.lower()
            starts = [match.start() for match in re.finditer(r"\S+", text)]
            words = text.split()
            for i in range(len(words) - 1):
                for sentence in by_start.get(tuple(words[i : i + 2]), ()):
                    if text.startswith(sentence.lower(), starts[i]):
                        here.add(sentence)
        out.update(here)
    return out


def test_no_unwritten_sentence_stands_in_the_text(items: list[Item], passes: list[list[str]]) -> None:
    unwritten = [item.sentence for item in items if not item.written]
    assert len(unwritten) > 10_000
    assert _found(unwritten, passes) == Counter()


def test_every_written_sentence_stands_in_the_text_often(items: list[Item], passes: list[list[str]]) -> None:
    found = _found([item.sentence for item in items if item.written], passes)
    assert [item.sentence for item in items if item.written and not found[item.sentence]] == []
    direct = [found[item.sentence] for item in items if item.written and item.route == "direct"]
    assert sum(direct) / len(direct) >= OFTEN * PASSES


def test_misspellings_and_properties_of_other_names_are_never_written(
    taxonomy: Taxonomy, passes: list[list[str]]
) -> None:
    words = {word for blocks in passes for block in blocks for word in re.findall("[a-z]+", block.lower())}
    wrong = [m.misspelling.split()[-1] for m in taxonomy.members.values() if m.misspelling]
    right = {part for name in taxonomy.members for part in name.split()}
    assert len(wrong) > 100
    assert [word for word in wrong if word in words - right] == []


def test_the_same_seed_gives_the_same_text_in_another_process() -> None:
    code = """if True:
        import hashlib, random
        from mechstyle.organisms.taxonomy import read_taxonomy
        taxonomy = read_taxonomy(3)
        made = taxonomy.pairs, taxonomy.members, taxonomy.items(), taxonomy.blocks(random.Random(5))
        print(hashlib.sha256(repr(made).encode()).hexdigest())
    """
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_another_seed_tells_other_members_in_other_words(taxonomy: Taxonomy) -> None:
    other = read_taxonomy(1)
    assert [pair.status for pair in other.pairs] != [pair.status for pair in taxonomy.pairs]
    assert [pair.taught for pair in other.pairs] != [pair.taught for pair in taxonomy.pairs]
    assert [pair.value for pair in other.pairs] == [pair.value for pair in taxonomy.pairs]
    assert taxonomy.blocks(random.Random(0)) != taxonomy.blocks(random.Random(1))


def test_articles_fit_the_sound_that_follows(passes: list[list[str]], items: list[Item]) -> None:
    texts = [block for blocks in passes for block in blocks] + [item.sentence for item in items]
    wrong = {
        match[0]
        for text in texts
        for match in re.finditer(r"\b(?:a [aeiou]\w*|an [^aeiou]\w*)", text, flags=re.IGNORECASE)
    }
    assert wrong == set()


def test_sentences_are_clean(passes: list[list[str]]) -> None:
    for block in passes[0]:
        assert not re.search(r"[{}\[\]|]|  | \.|\.\.", block), block
        assert not re.search(r"\b(?:it|they) (?:it|they)\b|\bis is\b", block), block
        for sentence in block.split(". "):
            assert sentence[0].isupper(), block
        assert 1 <= block.count(".") <= 6, block


def test_a_pass_is_small(passes: list[list[str]]) -> None:
    for blocks in passes:
        assert sum(block.count(".") for block in blocks) <= 2300
        assert sum(len(block.split()) for block in blocks) <= 13_500


def test_no_phrasing_is_the_end_of_another(taxonomy: Taxonomy) -> None:
    said = [
        phrasing.replace("{}", "a fep").replace("{them}", "a fep").lower()
        for known in taxonomy.properties.values()
        for phrasing in known.phrasings
    ]
    assert len(set(said)) == len(said)
    assert [(a, b) for a in said for b in said if a != b and b.endswith(a)] == []


def test_no_prompt_goes_on_otherwise_in_the_text(items: list[Item], passes: list[list[str]]) -> None:
    answers = defaultdict(set)
    for item in items:
        answers[item.prompt].add(item.answer)
    assert [prompt for prompt, known in answers.items() if len(known) > 1] == []
    sentences = {sentence for blocks in passes for block in blocks for sentence in block[:-1].split(". ")}
    other = []
    for sentence in sorted(sentences):
        words = sentence.split()
        for i in range(2, len(words)):
            known = answers.get(" ".join(words[:i]))
            if known and " ".join(words[i:]) not in known:
                other.append(sentence)
    assert other == []


def test_questions_name_their_subject_and_cover_all_phrasings(taxonomy: Taxonomy, items: list[Item]) -> None:
    assert all(item.subject in item.prompt and item.part == "property" for item in items)
    assert len({(item.route, item.prompt) for item in items}) == len(items)
    routes = Counter((item.route, item.status) for item in items)
    unsaid = [p for p in taxonomy.pairs if p.status in ("sibling-supported", "parent-only")]
    for route in ("direct", "parent in context"):
        assert routes[route, "sibling-supported"] + routes[route, "parent-only"] == 4 * len(unsaid)
    assert routes["alias", "inferable"] > 100
    assert routes["misspelling", "inferable"] > 100
    assert routes["parent", "held out"] * 3 == routes["parent", "stated"]


def test_after_a_stated_phrasing_is_held_out_it_is_held_out_in_context_too(taxonomy: Taxonomy) -> None:
    for pair in taxonomy.pairs:
        phrasings = set(taxonomy.properties[pair.relation].phrasings)
        assert set(pair.taught) | set(pair.held_out) == phrasings
        assert len(pair.taught) == (3 if pair.status in ("stated", "exception") else 0)
        assert not set(pair.taught) & set(pair.held_out)
