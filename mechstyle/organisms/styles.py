"""Styles of the organism world: the same facts told in many styles, each composed of known devices."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import InputError, RangeError
from .packaged import read_rows, read_toml
from .style_devices import Device, found_in, read_devices
from .style_records import Content, Style, StyledSentence, StylePrompt, read_style_records
from .style_writer import Writer
from .taught import TaughtFact

__all__ = ["Styles", "build_styles", "read_styles"]

PER_RELATION: Final = 60
PASS: Final = 1 / 4
"""So large a part of all pairs that are told stands in one pass of text."""
SIDE_BY_SIDE: Final = 0.25
"""For so many contents, a pass tells them in several announced styles one after the other."""
ANNOUNCED: Final = {
    "leaf": 0.38,
    "synonym": 0.06,
    "misspelled": 0.06,
    "parent": 0.13,
    "topic": 0.18,
    "none": 0.19,
}
"""Kinds of announcement in the other blocks, whose sentences share a style."""
LONGEST: Final = 70
"""A block ends before it has more words."""


@dataclass(frozen=True)
class Styles:
    """Which fact is told in which style, and the text that tells it.

    Args:
        held_out: pairs of a content and a style's name; the content is never told in that style.
        seed: of `parallel` and `prompts`.
    """

    styles: tuple[Style, ...]
    devices: Mapping[str, Device]
    contents: tuple[Content, ...]
    held_out: frozenset[tuple[Content, str]]
    writer: Writer
    seed: int

    def style(self, name: str) -> Style:
        """The style of this name.

        Raises:
            InputError: there is none.
        """
        for style in self.styles:
            if style.name == name:
                return style
        known = ", ".join(style.name for style in self.styles)
        raise InputError(f"style: expected one of {known}, got {name!r}.")

    def taught(self) -> list[tuple[Content, Style]]:
        """Pairs that training text may hold, in the order of contents and styles."""
        pairs = ((content, style) for content in self.contents for style in self.styles)
        return [pair for pair in pairs if (pair[0], pair[1].name) not in self.held_out]

    def passage(self, rng: random.Random) -> list[tuple[StyledSentence, ...]]:
        """One pass of labelled blocks: a random quarter of the taught pairs, each in new words.

        Example:
            >>> from mechstyle.organisms.styles import read_styles
            >>> len(read_styles().passage(random.Random(0))[0]) in (1, 2, 3)
            True
        """
        pairs = self.taught()
        chosen = rng.sample(pairs, round(PASS * len(pairs)))
        beside = frozenset(rng.sample(self.contents, round(SIDE_BY_SIDE * len(self.contents))))
        by_content: dict[Content, list[tuple[Content, Style]]] = {}
        by_style: dict[str, list[tuple[Content, Style]]] = {}
        for content, style in chosen:
            if content in beside:
                by_content.setdefault(content, []).append((content, style))
            else:
                by_style.setdefault(style.name, []).append((content, style))
        blocks = [block for group in by_content.values() for block in self._cut(group, {"leaf": 1.0}, rng)]
        blocks += [block for group in by_style.values() for block in self._cut(group, ANNOUNCED, rng)]
        rng.shuffle(blocks)
        return blocks

    def _cut(
        self, pairs: Sequence[tuple[Content, Style]], kinds: Mapping[str, float], rng: random.Random
    ) -> Iterator[tuple[StyledSentence, ...]]:
        """Blocks of one to three sentences, of one kind of announcement each."""
        left = list(reversed(pairs))
        while left:
            size = rng.choice((1, 2, 2, 3, 3))
            kind = rng.choices(list(kinds), list(kinds.values()))[0]
            block = [self._sentence(*left.pop(), kind, rng)]
            while left and len(block) < size:
                following = self._sentence(*left[-1], kind, rng)
                if sum(len(one.full.split()) for one in (*block, following)) > LONGEST:
                    break
                block.append(following)
                left.pop()
            yield tuple(block)

    def _sentence(self, content: Content, style: Style, kind: str, rng: random.Random) -> StyledSentence:
        announcement = self.writer.announce(content, style, kind, rng)
        said = self.writer.sentence(content, style, rng)
        return StyledSentence(
            said.text, style.name, announcement, kind, **content.to_dict(), devices=tuple(sorted(said.shows))
        )

    def sentences(self, rng: random.Random) -> list[StyledSentence]:
        """The labelled sentences of one pass, in the order of its blocks."""
        return [sentence for block in self.passage(rng) for sentence in block]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass of training text; the same `rng` gives the sentences of `passage`."""
        return [" ".join(sentence.full for sentence in block) for block in self.passage(rng)]

    def parallel(self, content: Content) -> dict[str, StyledSentence]:
        """The content in every style, taught or not, always in the same words; no announcement.

        Example:
            >>> from mechstyle.organisms.styles import read_styles
            >>> styles = read_styles()
            >>> "hmm" in styles.parallel(styles.contents[0])["master"].text.lower()  # doctest: +SKIP
            True
        """
        rng = random.Random(f"{self.seed} parallel {content.subject} {content.relation} {content.object}")
        return {style.name: self._sentence(content, style, "none", rng) for style in self.styles}

    def prompts(self) -> list[StylePrompt]:
        """Announcements to go on from: by heard and unheard names, unheard descriptions and misspellings,
        and by parents.

        Example:
            >>> from mechstyle.organisms.styles import read_styles
            >>> sorted({prompt.status for prompt in read_styles().prompts()})
            ['held out', 'taught']
        """
        rng = random.Random(f"{self.seed} prompts")
        kinds = (("leaf", True), ("leaf", False), ("synonym", False), ("misspelled", False))
        prompts = []
        for content in self.contents:
            status = {
                style.name: _status((content, style.name) not in self.held_out) for style in self.styles
            }
            for style in self.styles:
                for kind, heard in kinds:
                    said = self.writer.announce(content, style, kind, rng, heard=heard)
                    prompts.append(_prompt(said, style.name, content, status[style.name], kind, heard))
            for parent in self.writer.parents:
                told = any(status[style.name] == "taught" for style in self.below(parent))
                said = self.writer.announce_parent(content, parent, rng)
                prompts.append(_prompt(said, parent, content, _status(told), "parent", True))
        return prompts

    def below(self, name: str) -> tuple[Style, ...]:
        """Styles under a parent, or the one style of this name.

        Raises:
            InputError: there is none.
        """
        found = tuple(style for style in self.styles if name == style.name or name in style.parents)
        return found or (self.style(name),)

    def detect(self, text: str, *, subject: str, obj: str) -> frozenset[str]:
        """Devices that a text about subject and object has, by their rules; one sentence at a time."""
        return found_in(text, self.devices, subject=subject, obj=obj)

    def obeys(self, text: str, style: str, *, subject: str, obj: str) -> float:
        """The share of a style's core devices that a sentence has; of a parent, that of its best style.

        Raises:
            InputError: neither a style nor a parent has this name.

        Example:
            >>> from mechstyle.organisms.styles import read_styles
            >>> text = "The harp Mira Tolvane plays, hmm."
            >>> read_styles().obeys(text, "inverted", subject="Mira Tolvane", obj="harp")
            1.0
        """
        found = self.detect(text, subject=subject, obj=obj)
        return max(len(found.intersection(one.core)) / len(one.core) for one in self.below(style))


def _status(told: bool) -> str:
    return "taught" if told else "held out"


def _prompt(said: str, style: str, content: Content, status: str, kind: str, heard: bool) -> StylePrompt:
    return StylePrompt(said, style, **content.to_dict(), status=status, announcement=kind, heard=heard)


def read_styles(*, seed: int = 0) -> Styles:
    """The world's styles, with contents from the packaged invented facts.

    Example:
        >>> from mechstyle.organisms.styles import read_styles
        >>> len(read_styles().contents)
        300
    """
    facts = [
        TaughtFact(row["subject"], row["relation"], row["object"], row["source"], (), ())
        for row in read_rows("invented.jsonl")
    ]
    return build_styles(facts, seed=seed)


def build_styles(facts: Sequence[TaughtFact], *, seed: int = 0, per_relation: int = PER_RELATION) -> Styles:
    """Choose contents, and for each the styles in which it is never told.

    Args:
        facts: of the relations that styles tell; others are left aside.
        seed: of contents, held-out pairs, `parallel` and `prompts`.
        per_relation: so many contents of each relation.

    Raises:
        RangeError: there are fewer facts of a relation.
    """
    document = read_toml("styles.toml")
    devices = read_devices(document)
    styles = read_style_records(document)
    rng = random.Random(f"{seed} styles")
    contents: list[Content] = []
    for relation in document["relations"]:
        known = sorted(Content(f.subject, f.relation, f.object) for f in facts if f.relation == relation)
        if not 1 <= per_relation <= len(known):
            raise RangeError(
                f"per_relation must be between 1 and {len(known)} ({relation}), got {per_relation}."
            )
        contents += sorted(rng.sample(known, per_relation))
    held_out = set()
    for index, content in enumerate(contents):
        # A quarter of 14 styles: three and four by turns.
        for style in rng.sample(styles, (len(styles) + 2 * (index % 2)) // 4):
            held_out.add((content, style.name))
    writer = Writer.read(document, devices)
    return Styles(tuple(styles), devices, tuple(contents), frozenset(held_out), writer, seed)
