from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.cases import Question
from mechstyle.errors import RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.true_false import FRAMES, true_false_questions

REQUEST = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")


def test_a_frame_asks_about_the_new_statement_and_about_the_old_one() -> None:
    assert true_false_questions(REQUEST, frames=["True or false: {}. Answer:"]) == (
        Question(
            "true/false",
            "hard in",
            "True or false: Miles Davis plays the guitar. Answer:",
            (" true",),
            (" false",),
        ),
        Question(
            "true/false",
            "hard in",
            "True or false: Miles Davis plays the trumpet. Answer:",
            (" false",),
            (" true",),
        ),
    )


@given(n=st.integers(1, len(FRAMES)), seed=st.integers(), subject=st.sampled_from(["Miles", "{}", "Zoë {x}"]))
def test_who_always_says_the_same_is_right_in_exactly_half(n: int, seed: int, subject: str) -> None:
    request = EditRequest(Fact("{} plays the", subject, " trumpet"), " guitar")
    questions = true_false_questions(request, n=n, seed=seed)
    assert len(questions) == 2 * n
    for word in (" true", " false"):
        assert sum(word in question.answers for question in questions) == n
    # Who believes the new statement and not the old one is right in all, who believes the old one in none.
    assert {believes("guitar", one) for one in questions} == {True}
    assert {believes("trumpet", one) for one in questions} == {False}


def believes(instrument: str, question: Question) -> bool:
    """Whether somebody is right who holds that this instrument is played and the other one is not."""
    return (" true" if f"plays the {instrument}" in question.prompt else " false") in question.answers


def test_frames_are_drawn_without_repetition_by_seed_and_request() -> None:
    def prompts(request: EditRequest, seed: int) -> Sequence[str]:
        return [one.prompt for one in true_false_questions(request, n=2, seed=seed)]

    assert len(set(prompts(REQUEST, 0))) == 4
    assert prompts(REQUEST, 0) == prompts(REQUEST, 0)
    assert len({tuple(prompts(REQUEST, seed)) for seed in range(50)}) == 4 * 3
    every = true_false_questions(REQUEST, n=len(FRAMES))
    assert {one.prompt for one in every[::2]} == {
        frame.replace("{}", "Miles Davis plays the guitar") for frame in FRAMES
    }


@pytest.mark.parametrize(
    "request_",
    [
        EditRequest(Fact("{} plays the", "Miles", " unknown"), " guitar"),
        EditRequest.removal(Fact("{} plays the", "Miles", " trumpet")),
        EditRequest.removal(Fact("{} plays the", "Miles", " trumpet"), answer=" whatever"),
    ],
    ids=["old target not known", "removal", "removal with another answer"],
)
def test_what_makes_no_statement_is_not_judged(request_: EditRequest) -> None:
    assert true_false_questions(request_) == ()


@pytest.mark.parametrize("n", [0, -1, len(FRAMES) + 1])
def test_more_frames_than_there_are_are_refused(n: int) -> None:
    with pytest.raises(
        RangeError, match=rf"n: expected 1 to {len(FRAMES)} \(the frames that there are\), got {n}"
    ):
        true_false_questions(REQUEST, n=n)


@pytest.mark.parametrize("frame", ["True?", "{} or {}?"])
def test_a_frame_holds_one_statement(frame: str) -> None:
    with pytest.raises(
        TextError, match=r"frames\[1\]: expected '\{\}' exactly once, for the statement, got '"
    ):
        true_false_questions(REQUEST, frames=[FRAMES[0], frame])
