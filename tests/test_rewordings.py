"""Prompts in other words and letters: what each kind changes and what it leaves alone."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mechstyle import organisms
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.rewordings import REWORDINGS, Rewording, reword, robustness_questions

PROMPT = "The headquarters of Blue Note Records are in the city of"
SUBJECT = "Blue Note Records"
TABLE = tomllib.loads(resources.files("mechstyle").joinpath("rewordings.toml").read_text(encoding="utf-8"))
prompts = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIéßäŒ'-.", min_size=1, max_size=9), min_size=1, max_size=7
).map(" ".join)
seeds = st.integers(0, 5)


def texts(rewordings: Sequence[Rewording]) -> list[str]:
    return [one.text for one in rewordings]


def slips(first: str, second: str) -> int:
    """Fewest insertions, deletions, replacements and swaps of neighbours, no letter being changed twice."""
    table = [
        [max(i, j) if not i or not j else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)
    ]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (first[i - 1] != second[j - 1]),
            )
            if i > 1 and j > 1 and first[i - 2 : i] == second[j - 1] + second[j - 2]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


def test_the_oracle_counts_slips() -> None:
    assert [slips("plays", other) for other in ("plays", "palys", "play", "pllays", "plauz")] == [
        0,
        1,
        1,
        1,
        2,
    ]


@given(prompts, seeds, st.integers(1, 3))
def test_a_misspelling_has_as_many_slips_as_it_says(prompt: str, seed: int, edits: int) -> None:
    for text in texts(reword(prompt, kinds=["misspelling"], n=3, seed=seed, edits=edits)):
        assert slips(prompt, text) == edits


@given(prompts, seeds)
def test_a_misspelling_touches_one_long_word_behind_its_first_letter(prompt: str, seed: int) -> None:
    for text in texts(reword(prompt, kinds=["misspelling"], n=3, seed=seed)):
        old, new = prompt.split(), text.split()
        assert len(old) == len(new)
        changed = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
        assert len(changed) == 1
        assert len(changed[0][0]) >= 4
        assert changed[0][0][0] == changed[0][1][0]


@given(prompts, seeds)
def test_capitalisation_changes_nothing_but_capitals(prompt: str, seed: int) -> None:
    for text in texts(reword(prompt, kinds=["capitalisation"], n=4, seed=seed)):
        assert text.casefold() == prompt.casefold()


@given(prompts, seeds)
def test_leading_spaces_change_nothing_but_spaces_in_front(prompt: str, seed: int) -> None:
    found = texts(reword(prompt, kinds=["leading space"], n=9, seed=seed))
    assert sorted(found) == [f"  {prompt}", f" {prompt}"]


@given(prompts, seeds)
def test_no_rewording_is_the_prompt_and_none_comes_twice(prompt: str, seed: int) -> None:
    found = reword(prompt, n=4, seed=seed)
    assert prompt not in texts(found)
    assert len(set(found)) == len(found)
    assert all(text == text.rstrip() for text in texts(found))


@given(prompts, seeds, st.integers(1, 4))
def test_rewordings_are_a_function_of_seed_kind_and_prompt(prompt: str, seed: int, n: int) -> None:
    whole = reword(prompt, n=5, seed=seed)
    for kind in REWORDINGS:
        alone = reword(prompt, kinds=[kind], n=n, seed=seed)
        assert list(alone) == [one for one in whole if one.kind == kind][:n]


def test_seeds_draw_different_rewordings() -> None:
    for kind in ("paraphrase frame", "synonym", "misspelling", "capitalisation", "leading space"):
        assert len({reword(PROMPT, kinds=[kind], seed=seed) for seed in range(20)}) > 1, kind


@given(st.sampled_from([one for group in TABLE["synonyms"] for one in group]), seeds)
def test_synonyms_leave_the_subject_alone_even_if_it_is_in_the_table(phrase: str, seed: int) -> None:
    prompt = f"The maker of {phrase} is based in"
    assume(phrase not in "The maker of is based in")
    found = texts(reword(prompt, kinds=["synonym"], n=50, seed=seed, subject=phrase))
    assert found
    for text in found:
        assert phrase in text
        rest = text.replace(phrase, "", 1)
        assert rest != prompt.replace(phrase, "", 1)


def test_a_synonym_replaces_one_phrase_and_keeps_its_capital() -> None:
    assert set(texts(reword("Astronomers find it in", kinds=["synonym"], n=9))) == {"Stargazers find it in"}
    assert set(texts(reword("The headquarters of it are", kinds=["synonym"], n=9))) == {
        "The main offices of it are",
        "The central offices of it are",
    }
    assert reword("A wholly unknown sentence", kinds=["synonym"]) == ()
    assert reword("The toymaker of it", kinds=["synonym"]) == ()


def test_the_longest_phrase_is_the_one_that_is_replaced() -> None:
    found = texts(reword("He plays the sport of", kinds=["synonym"], n=9))
    assert found == ["He competes in the sport of"]


def test_a_phrase_of_the_table_stands_in_one_group_only() -> None:
    phrases = [one for group in TABLE["synonyms"] for one in group]
    assert len(phrases) == len(set(phrases))
    assert all(one == one.strip().lower() for one in phrases)
    assert all(len(group) > 1 for group in TABLE["synonyms"])


def test_words_that_fit_some_sentences_only_are_left_alone_in_others() -> None:
    for prompt in (
        "The official post of state is in",
        "The trade of silk began in",
        "He speaks and she spoke of",
        "The film producer of it is",
        "It is in the state of",
        "It is in the city of",
        "It is on the land mass of",
        "The Apple watch belongs to",
    ):
        assert reword(prompt, kinds=["synonym"]) == (), prompt


def test_a_frame_leaves_the_prompts_end_as_it_is() -> None:
    found = texts(reword(PROMPT, kinds=["paraphrase frame"], n=50, subject=SUBJECT))
    assert len(found) == len(TABLE["frames"]) > 5
    assert "It is well known that the headquarters of Blue Note Records are in the city of" in found
    assert "Here is a fact. The headquarters of Blue Note Records are in the city of" in found
    assert all(text.endswith(PROMPT[1:]) for text in found)


def test_a_subject_in_front_keeps_its_capital_behind_a_frame() -> None:
    frames = ["We know that {}"]
    named = reword(
        "The Land Girls was shown on", kinds=["paraphrase frame"], frames=frames, subject="The Land Girls"
    )
    assert texts(named) == ["We know that The Land Girls was shown on"]
    plain = reword("The film was shown on", kinds=["paraphrase frame"], frames=frames)
    assert texts(plain) == ["We know that the film was shown on"]


def test_misspellings_keep_to_their_place() -> None:
    for seed in range(30):
        (inside,) = texts(reword(PROMPT, kinds=["misspelling"], seed=seed, subject=SUBJECT, place="subject"))
        assert inside.startswith("The headquarters of ")
        assert inside.endswith(" are in the city of")
        (outside,) = texts(
            reword(PROMPT, kinds=["misspelling"], seed=seed, subject=SUBJECT, place="elsewhere")
        )
        assert SUBJECT in outside


def test_all_four_slips_occur() -> None:
    found = texts(reword("plays", kinds=["misspelling"], n=60))
    assert {"palys", "plas", "playss", "plsys"} <= set(found)


def test_a_word_that_is_too_short_is_not_misspelt() -> None:
    assert reword("He is in the", kinds=["misspelling"], n=3) == ()
    assert reword("He plays in the", kinds=["misspelling"], edits=2) == ()


def test_every_prompt_of_an_organism_has_every_kind_but_for_a_few_synonyms() -> None:
    requests = organisms.requests("organism-m", n=200, seed=1)
    without = [
        (request.fact.template, kind)
        for request in requests
        for kind in set(REWORDINGS) - {one.kind for one in robustness_questions(request)}
    ]
    assert {kind for _, kind in without} <= {"synonym"}
    assert len(without) <= 30, without


def test_questions_ask_for_the_new_target_against_the_old_one() -> None:
    request = EditRequest(Fact("The headquarters of {} are in the city of", SUBJECT, " Rome"), " Paris")
    questions = robustness_questions(request, n=2, seed=3)
    assert [one.kind for one in questions] == [kind for kind in REWORDINGS for _ in range(2)]
    assert {(one.scope, one.answers, one.foils) for one in questions} == {("in", (" Paris",), (" Rome",))}
    assert [one.prompt for one in questions] == texts(reword(PROMPT, n=2, seed=3, subject=SUBJECT))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ["slang"]}, InputError, r"kinds: expected some of paraphrase frame, .*got \['slang'\]"),
        ({"kinds": []}, InputError, "kinds: expected some of"),
        ({"kinds": "synonym"}, InputError, "kinds: expected some of"),
        ({"place": "end"}, InputError, "place: expected some of anywhere, subject, elsewhere"),
        ({"place": "subject"}, InputError, "place: 'subject' needs to know the subject"),
        ({"subject": "Nobody"}, TextError, "subject: expected words of the prompt"),
        ({"frames": ["{} is so"]}, TextError, r"frames\[0\]: expected text that ends with its only"),
        ({"n": 0}, RangeError, "n: expected a whole number of 1 or more, got 0"),
        ({"edits": True}, RangeError, "edits: expected a whole number of 1 or more, got True"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reword(PROMPT, **options)


def test_a_blank_prompt_and_something_else_than_a_request_are_refused() -> None:
    with pytest.raises(TextError, match="prompt: expected text that is not blank"):
        reword("  ")
    with pytest.raises(InputError, match="request: expected an EditRequest, got str"):
        robustness_questions(PROMPT)  # type: ignore[arg-type]
