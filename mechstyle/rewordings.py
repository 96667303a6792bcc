"""The same prompt in other words and other letters, to see how far an edit holds; every draw has a seed."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

from rapidfuzz.distance import OSA

from mechstyle.cases import Question
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import EditRequest

__all__ = ["REWORDINGS", "Place", "Rewording", "RewordingKind", "reword", "robustness_questions"]

RewordingKind = Literal["paraphrase frame", "synonym", "misspelling", "capitalisation", "leading space"]
REWORDINGS: Final[tuple[RewordingKind, ...]] = get_args(RewordingKind)
Place = Literal["anywhere", "subject", "elsewhere"]
SLOT: Final = "{}"
TABLE: Final = "rewordings.toml"
SHORTEST: Final = 4
"""Letters of the shortest word that is misspelt."""
_TRIES: Final = 40
_WORD: Final = re.compile(r"[^\W\d_]+")
Span = tuple[int, int]


@dataclass(frozen=True)
class Rewording:
    """A prompt in other words or letters.

    Args:
        kind: one of ``REWORDINGS``.
        text: whole; what followed the prompt still follows it.
    """

    kind: RewordingKind
    text: str


@dataclass(frozen=True)
class _Draw:
    """One prompt to be reworded."""

    prompt: str
    subject: str | None
    frames: Sequence[str]
    edits: int
    place: Place
    rng: random.Random

    @property
    def protected(self) -> list[Span]:
        """Where the subject stands."""
        if self.subject is None:
            return []
        return [found.span() for found in re.finditer(re.escape(self.subject), self.prompt)]

    def shuffled(self, texts: Sequence[str]) -> list[str]:
        """All of them in a drawn order, each once and without the prompt itself."""
        different = [text for text in dict.fromkeys(texts) if text != self.prompt]
        return self.rng.sample(different, len(different))


def reword(
    prompt: str,
    *,
    kinds: Sequence[RewordingKind] = REWORDINGS,
    n: int = 1,
    seed: int = 0,
    subject: str | None = None,
    frames: Sequence[str] | None = None,
    edits: int = 1,
    place: Place = "anywhere",
) -> tuple[Rewording, ...]:
    """Up to ``n`` rewordings of each kind, a function of seed, kind and prompt; never the prompt itself.

    - *paraphrase frame*: something stands before the prompt, whose end stays as it is.
    - *synonym*: one phrase is replaced by another one of a small packaged table; the subject stays.
    - *misspelling*: in words of four letters or more two neighbours are swapped, or a letter is left out,
      doubled, or replaced by a neighbour on the keyboard; a word's first letter stays.
    - *capitalisation*: all in lower case, all in upper case, Each Word, or the first letter only.
    - *leading space*: one or two spaces stand before the first word.

    A kind that does not fit the prompt (no known phrase, no word that is long enough) gives fewer, or none.

    Args:
        n: of each kind; of more than one, the first are those of a smaller ``n``.
        subject: words of the prompt that synonyms leave alone, and that ``place`` is about.
        frames: texts that end with ``{}``, where the prompt stands; None takes the packaged ones.
        edits: misspelt words, with one slip each.
        place: of the misspellings: anywhere, in the subject, or elsewhere.

    Raises:
        InputError: an unknown kind or place, or ``place`` is not "anywhere" and no subject is given.
        TextError: the prompt is blank, the subject is not in it, or a frame does not end with ``{}``.
        RangeError: ``n`` or ``edits`` is below 1.

    Example:
        >>> reword("Miles Davis plays the", kinds=["leading space"])[0].text.strip()
        'Miles Davis plays the'
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise TextError(f"prompt: expected text that is not blank, got {prompt!r}.")
    _check_names("kinds", kinds, REWORDINGS)
    _check_names("place", [place], get_args(Place))
    for name, number in (("n", n), ("edits", edits)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RangeError(f"{name}: expected a whole number of 1 or more, got {number!r}.")
    if subject is not None and (not subject or subject not in prompt):
        raise TextError(f"subject: expected words of the prompt {prompt!r}, got {subject!r}.")
    if subject is None and place != "anywhere":
        raise InputError(f"place: {place!r} needs to know the subject; pass subject=..., or 'anywhere'.")
    chosen = tuple(_table()["frames"] if frames is None else frames)
    for index, frame in enumerate(chosen):
        if not isinstance(frame, str) or frame.count(SLOT) != 1 or not frame.endswith(SLOT):
            raise TextError(
                f"frames[{index}]: expected text that ends with its only '{SLOT}', where the prompt stands, "
                f"got {frame!r}; write for example 'It is well known that {SLOT}'."
            )
    found = []
    for kind in dict.fromkeys(kinds):
        draw = _Draw(prompt, subject, chosen, edits, place, random.Random(f"{seed} {kind} {prompt}"))
        found += [Rewording(kind, text) for text in _WAYS[kind](draw, n)[:n]]
    return tuple(found)


def robustness_questions(
    request: EditRequest,
    *,
    kinds: Sequence[RewordingKind] = REWORDINGS,
    n: int = 1,
    seed: int = 0,
    frames: Sequence[str] | None = None,
    edits: int = 1,
    place: Place = "anywhere",
) -> tuple[Question, ...]:
    """The edited prompt in other words and letters, which should get the new target too.

    Args:
        n: of each kind; see ``reword`` for all arguments.

    Raises:
        InputError: something else than a request, or as ``reword``.

    Example:
        >>> request = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " piano")
        >>> robustness_questions(request, kinds=["capitalisation"])[0].answers
        (' piano',)
    """
    if not isinstance(request, EditRequest):
        raise InputError(f"request: expected an EditRequest, got {type(request).__name__}.")
    rewordings = reword(
        request.fact.prompt,
        kinds=kinds,
        n=n,
        seed=seed,
        subject=request.fact.subject,
        frames=frames,
        edits=edits,
        place=place,
    )
    answers, foils = (request.new_target,), (request.fact.target,)
    return tuple(Question(one.kind, "in", one.text, answers, foils) for one in rewordings)


def _framed(draw: _Draw, n: int) -> list[str]:
    first = draw.prompt.split(maxsplit=1)[0]
    begins = draw.prompt.startswith(first)
    inside = begins and first in _table()["openings"] and not any(start == 0 for start, _ in draw.protected)
    within = first[0].lower() + draw.prompt[1:] if inside else draw.prompt
    return draw.shuffled(
        [
            frame.removesuffix(SLOT)
            + (draw.prompt if frame.removesuffix(SLOT).rstrip()[-1:] in ".:!?" else within)
            for frame in draw.frames
        ]
    )


def _with_synonym(draw: _Draw, n: int) -> list[str]:
    free: list[re.Match[str]] = []
    taken = list(draw.protected)
    for pattern in _phrases():  # the longest first: its parts are no phrases of their own
        for match in pattern.finditer(draw.prompt):
            if all(match.end() <= start or stop <= match.start() for start, stop in taken):
                free.append(match)
                taken.append(match.span())
    texts = []
    for match in free:
        for other in _synonyms()[match.group().lower()]:
            said = other[0].upper() + other[1:] if match.group()[0].isupper() else other
            texts.append(draw.prompt[: match.start()] + said + draw.prompt[match.end() :])
    return draw.shuffled(texts)


def _misspelt(draw: _Draw, n: int) -> list[str]:
    words = [one.span() for one in _WORD.finditer(draw.prompt) if len(one.group()) >= SHORTEST]
    inside = [any(a < stop and start < b for start, stop in draw.protected) for a, b in words]
    if draw.place != "anywhere":
        wanted = draw.place == "subject"
        words = [word for word, own in zip(words, inside, strict=True) if own == wanted]
    found: dict[str, None] = {}
    if len(words) < draw.edits:
        return []
    for _ in range(_TRIES * n):
        text = draw.prompt
        for start, stop in sorted(draw.rng.sample(words, draw.edits), reverse=True):
            text = text[:start] + _slip(text[start:stop], draw.rng) + text[stop:]
        if OSA.distance(draw.prompt, text) == draw.edits:
            found[text] = None
        if len(found) == n:
            break
    return list(found)


def _slip(word: str, rng: random.Random) -> str:
    """One slip behind the first letter; which kind, and then where, are drawn evenly."""
    rest = range(1, len(word))
    near = _neighbours()
    slips = (
        [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in rest[:-1] if word[i] != word[i + 1]],
        [word[:i] + word[i + 1 :] for i in rest],
        [word[: i + 1] + word[i:] for i in rest],
        [
            word[:i] + (key.upper() if word[i].isupper() else key) + word[i + 1 :]
            for i in rest
            for key in near.get(word[i].lower(), "")
        ],
    )
    return rng.choice(rng.choice([one for one in slips if one]))


def _capitals(draw: _Draw, n: int) -> list[str]:
    prompt = draw.prompt
    letter = next((i for i, one in enumerate(prompt) if one.isalpha()), 0)
    first = prompt[:letter] + prompt[letter].swapcase() + prompt[letter + 1 :]
    texts = (prompt.lower(), prompt.upper(), prompt.title(), first)
    return draw.shuffled([text for text in texts if text.casefold() == prompt.casefold()])


def _spaced(draw: _Draw, n: int) -> list[str]:
    return draw.shuffled([" " + draw.prompt, "  " + draw.prompt])


_WAYS: Final[Mapping[RewordingKind, Callable[[_Draw, int], list[str]]]] = {
    "paraphrase frame": _framed,
    "synonym": _with_synonym,
    "misspelling": _misspelt,
    "capitalisation": _capitals,
    "leading space": _spaced,
}


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("mechstyle").joinpath(TABLE).read_text(encoding="utf-8"))


@cache
def _synonyms() -> Mapping[str, tuple[str, ...]]:
    groups = _table()["synonyms"]
    return {one: tuple(other for other in group if other != one) for group in groups for one in group}


@cache
def _phrases() -> tuple[re.Pattern[str], ...]:
    longest = sorted(_synonyms(), key=lambda phrase: (-len(phrase), phrase))
    return tuple(re.compile(rf"(?<!\w){re.escape(one)}(?!\w)", re.IGNORECASE) for one in longest)


@cache
def _neighbours() -> Mapping[str, str]:
    rows = _table()["keyboard"]
    return {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in rows for i, key in enumerate(row)}


def _check_names(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    wrong = [one for one in given if one not in known]
    if isinstance(given, str) or wrong or not given:
        raise InputError(f"{name}: expected some of {', '.join(known)}, got {given!r}.")
