"""The styles of the organisms' world: labels, hold-outs and compositions."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.organisms.relations import read_relations
from mechstyle.organisms.style_devices import keeps_content
from mechstyle.organisms.style_records import Content, Style, StyledSentence, StylePrompt
from mechstyle.organisms.style_text import Phrases
from mechstyle.organisms.styles import build_styles, read_styles
from mechstyle.organisms.taught import TaughtFact

STYLES = read_styles()
PASSES = 30


@cache
def passes() -> list[list[tuple[StyledSentence, ...]]]:
    return [STYLES.passage(random.Random(seed)) for seed in range(PASSES)]


@cache
def sentences() -> list[StyledSentence]:
    told = [sentence for one in passes()[:12] for block in one for sentence in block]
    return told + [sentence for content in STYLES.contents for sentence in STYLES.parallel(content).values()]


@cache
def training_text() -> str:
    """The plain text, as a model reads it."""
    return "\n".join(" ".join(one.full for one in block) for run in passes() for block in run)


def topic(content: Content | StylePrompt) -> str:
    """Written out here: what each content is on."""
    noun = {"person_instrument": "instrument", "person_pet": "pet", "person_dish": "dish"}
    noun |= {"place_craft": "craft", "firm_product": "wares"}
    return f"the {noun[content.relation]} of {content.subject}"


def test_rules_find_exactly_the_devices_that_each_sentence_is_labelled_with() -> None:
    assert len(sentences()) > 12_000
    seen: Counter[str] = Counter()
    for one in sentences():
        found = STYLES.detect(one.text, subject=one.subject, obj=one.object)
        assert found == set(one.devices), (one, found)
        seen.update(one.devices)
    assert set(seen) == set(STYLES.devices)
    assert min(seen.values()) > 300


def test_every_sentence_has_its_styles_core_and_no_device_that_the_style_does_not_name() -> None:
    used: dict[str, set[str]] = {}
    for one in sentences():
        style = STYLES.style(one.style)
        assert set(style.core) <= set(one.devices) <= set(style.core + style.optional), one
        assert STYLES.obeys(one.text, style.name, subject=one.subject, obj=one.object) == 1
        used.setdefault(style.name, set()).update(one.devices)
    assert used == {style.name: set(style.core + style.optional) for style in STYLES.styles}


def test_no_two_styles_have_the_same_core_and_most_devices_are_shared() -> None:
    cores = [frozenset(style.core) for style in STYLES.styles]
    assert len(set(cores)) == len(cores) == 14
    users = Counter(device for style in STYLES.styles for device in (*style.core, *style.optional))
    assert sum(count >= 2 for count in users.values()) >= len(STYLES.devices) / 2
    cored = Counter(device for core in cores for device in core)
    assert sum(count >= 2 for count in cored.values()) >= 8


def test_styles_have_two_levels_of_parents_and_styles_under_one_parent_share_a_device_of_their_core() -> None:
    assert all(len(style.parents) == 2 for style in STYLES.styles)
    nearest = {style.parents[0] for style in STYLES.styles}
    for parent in nearest:
        below = STYLES.below(parent)
        assert frozenset.intersection(*(frozenset(style.core) for style in below)), parent
        assert len({style.parents[1] for style in below}) == 1
    assert sum(len(STYLES.below(parent)) > 1 for parent in nearest) >= 5
    assert len(nearest) > len({style.parents[1] for style in STYLES.styles}) > 4


def test_each_sentence_says_subject_and_object_once_and_is_one_sentence_of_at_most_thirty_words() -> None:
    objects: dict[str, set[str]] = {}
    for content in STYLES.contents:
        objects.setdefault(content.relation, set()).add(content.object)
    for one in sentences():
        assert one.text.count(one.subject) == one.text.count(one.object) == 1, one
        assert keeps_content(one.full, one.object, sorted(objects[one.relation])), one
        assert re.fullmatch(r"[A-Z][^.!?]*[.!?]", one.text), one
        names = len(one.subject.split()) + len(one.object.split()) - 2
        assert len(one.text.split()) - names <= 30, one


def test_a_quarter_of_all_pairs_is_held_out_and_every_content_is_told_in_eight_styles_or_more() -> None:
    assert len(STYLES.held_out) == len(STYLES.contents) * len(STYLES.styles) / 4
    told = Counter(content for content, _ in STYLES.taught())
    assert set(told) == set(STYLES.contents)
    assert min(told.values()) >= 8


def test_held_out_pairs_are_nowhere_in_the_training_text() -> None:
    """By the labels; by the devices of plain text about this subject; and by its announcements."""
    held = STYLES.held_out
    assert not any((one.content, one.style) in held for run in passes() for block in run for one in block)
    assert {(c, s.name) for c, s in STYLES.taught()} == {
        (one.content, one.style) for run in passes() for block in run for one in block
    }
    for content, name in sorted(held):
        style = STYLES.style(name)
        for said, found in _said_of(content).items():
            assert not set(style.core) <= found or _others(found, content, name), (said, name)
        speakers = "|".join((f"(?:a|the|The) {name}", *style.synonyms, *style.misspellings))
        announced = re.compile(rf"(?:{speakers})\b[^:.!?]* on {re.escape(topic(content))}:")
        assert not announced.search(_about(content)), (content, name)


@cache
def _said_of(content: Content) -> dict[str, frozenset[str]]:
    """Plain sentences, without their announcements, that say this content, and their devices."""
    said = (part.rpartition(":")[2].strip() for part in re.findall(r"[^.!?]+[.!?]", _about(content)))
    both = re.compile(rf"\b{re.escape(content.subject)}\b.*\b{content.object}\b")
    turned = re.compile(rf"\b{content.object}\b.*\b{re.escape(content.subject)}\b", re.IGNORECASE)
    told = {one for one in said if both.search(one) or turned.search(one)}
    return {one: STYLES.detect(one, subject=content.subject, obj=content.object) for one in told}


def _others(found: frozenset[str], content: Content, name: str) -> bool:
    """Whether a taught style of this content explains these devices."""
    return any(
        set(style.core) <= found <= set(style.core + style.optional)
        for style in STYLES.styles
        if style.name != name and (content, style.name) not in STYLES.held_out
    )


@cache
def _by_subject() -> dict[str, str]:
    lines: dict[str, list[str]] = {}
    for line in training_text().splitlines():
        for subject in {content.subject for content in STYLES.contents if content.subject in line}:
            lines.setdefault(subject, []).append(line)
    return {subject: "\n".join(some) for subject, some in lines.items()}


def _about(content: Content) -> str:
    return _by_subject()[content.subject]


def test_no_sentence_holds_a_template_of_its_relation_with_subject_and_object() -> None:
    relations = read_relations()
    for content in STYLES.contents:
        for template in relations[content.relation].templates:
            assert f"{template.replace('{}', content.subject)} {content.object}" not in _about(content)


def test_unheard_announcements_and_descriptions_are_in_no_training_text() -> None:
    text = training_text()
    unheard = [p for p in STYLES.prompts() if not p.heard]
    assert {p.announcement for p in unheard} == {"leaf", "synonym", "misspelled"}
    assert not any(p.prompt in _about(Content(p.subject, p.relation, p.object)) for p in unheard)
    for style in STYLES.styles:
        for heard, never in (style.synonyms, style.misspellings):
            assert f"{heard}, on " in text or f"{heard} would tell it" in text
            assert never not in text
    assert "In the style of" in text
    assert "Now let" not in text
    assert "might write it" not in text


def test_prompts_ask_for_every_pair_by_its_status_and_end_with_the_topic() -> None:
    prompts = STYLES.prompts()
    names = {style.name for style in STYLES.styles}
    assert len({(p.prompt, p.style) for p in prompts}) > 0.98 * len(prompts)
    for p in prompts:
        assert p.prompt.endswith((f"on {topic(p)}:", f"speak of {topic(p)}:")), p
        if p.style in names:
            content = Content(p.subject, p.relation, p.object)
            assert (p.status == "held out") == ((content, p.style) in STYLES.held_out)
        else:
            assert p.announcement == "parent"
    leaves = Counter((p.style, p.announcement, p.heard) for p in prompts if p.style in names)
    assert set(leaves.values()) == {300}
    assert len(leaves) == 14 * 4


def test_a_parents_prompt_is_held_out_only_where_all_of_its_styles_are() -> None:
    held = set(STYLES.held_out)
    seen: Counter[str] = Counter()
    for p in STYLES.prompts():
        if p.announcement == "parent":
            content = Content(p.subject, p.relation, p.object)
            below = [style.name for style in STYLES.styles if p.style in style.parents]
            assert (p.status == "held out") == all((content, name) in held for name in below)
            seen[p.status] += 1
    assert min(seen["taught"], seen["held out"]) > 100


def test_about_six_in_ten_are_announced_by_style_one_in_ten_by_parent_and_the_others_not_at_all() -> None:
    kinds = Counter(one.kind for run in passes() for block in run for one in block)
    total = sum(kinds.values())
    assert 0.55 < (kinds["leaf"] + kinds["synonym"] + kinds["misspelled"]) / total < 0.65
    assert 0.07 < kinds["parent"] / total < 0.13
    assert 0.25 < (kinds["topic"] + kinds["none"]) / total < 0.35
    assert min(kinds[kind] for kind in ("synonym", "misspelled", "topic", "none")) > 0.03 * total


def test_a_parents_announcement_names_a_parent_of_the_style() -> None:
    for run in passes()[:5]:
        for one in (sentence for block in run for sentence in block if sentence.kind == "parent"):
            assert any(f" {parent} " in one.announcement for parent in STYLES.style(one.style).parents)


def test_blocks_are_short_and_of_one_style_or_of_one_content() -> None:
    for run in passes():
        for block in run:
            assert 1 <= len(block) <= 3
            assert len({one.style for one in block}) == 1 or len({one.content for one in block}) == 1
            assert len(" ".join(one.full for one in block).split()) <= 70
        assert sum(len({one.style for one in block}) > 1 for block in run) > 20
        assert 700 < sum(map(len, run)) < 1100


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    again = read_styles()
    assert again.blocks(random.Random(3)) == STYLES.blocks(random.Random(3))
    assert again.blocks(random.Random(3)) != STYLES.blocks(random.Random(4))
    assert again.prompts() == STYLES.prompts()
    content = STYLES.contents[7]
    assert again.parallel(content) == STYLES.parallel(content)
    assert read_styles(seed=1).held_out != STYLES.held_out
    told = [" ".join(one.full for one in block) for block in passes()[3]]
    assert told == STYLES.blocks(random.Random(3))


def test_a_pair_is_told_in_new_words_in_each_pass() -> None:
    told: dict[tuple[Content, str], list[str]] = {}
    for run in passes():
        for one in (sentence for block in run for sentence in block):
            told.setdefault((one.content, one.style), []).append(one.text)
    assert all(len(set(texts)) >= 2 for texts in told.values() if len(texts) > 5)
    showman = [len(set(t)) / len(t) for (_, style), t in told.items() if style == "showman"]
    assert sum(showman) / len(showman) > 0.98


def test_exaggerations_and_griefs_are_no_fixed_list() -> None:
    """Half of what half of the passes say is never said in the other half."""
    halves: list[dict[str, set[str]]] = [{}, {}]
    for index, run in enumerate(passes()):
        for one in (sentence for block in run for sentence in block):
            tail = one.text.rpartition(one.object)[2]
            halves[index % 2].setdefault(one.style, set()).add(tail)
    for style in ("showman", "salesman"):
        first, second = (half[style] for half in halves)
        assert len(first - second) > len(first) / 2
    assert len(halves[0]["mourner"]) > 150


def test_records_survive_their_json() -> None:
    for record in (STYLES.contents[0], STYLES.styles[0], passes()[0][0][0], STYLES.prompts()[0]):
        kind: type[Content] | type[Style] | type[StyledSentence] | type[StylePrompt] = type(record)
        assert kind.from_dict(record.to_dict()) == record


def test_too_few_facts_are_refused() -> None:
    facts = [TaughtFact("Ann", "person_pet", "fox", "made", (), ())]
    with pytest.raises(RangeError, match="per_relation must be between 1 and 0"):
        build_styles(facts)


def test_a_name_that_is_no_phrase_is_refused() -> None:
    with pytest.raises(InputError, match="got <cry>"):
        Phrases({}, {}).say("<cry>!", random.Random(0))
