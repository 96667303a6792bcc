"""A slow reader of training text: looks for sentences anywhere in it, whatever their case and punctuation."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources

from mechstyle.organisms.style_records import Content, Style

__all__ = ["Search", "StyleReader", "plain", "whole_training_text"]

WORD = re.compile(r"\w+")
PIECE = re.compile(r"\w+|[^\w\s]+")
SENTENCE = re.compile(r"[^.!?]+[.!?]")
FRAME = re.compile(r"\[([^\]]*)\]|<([^<>]*)>|([^\[<]+)")


def plain(text: str) -> str:
    """Its words alone, in lower case, with a space around each."""
    return f" {' '.join(WORD.findall(text.lower()))} "


class Search:
    """Sentences to look for; finds them by their first three words, wherever a text holds these."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.left: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
        self.found: dict[str, str] = {}
        for sentence in sentences:
            words = plain(sentence)
            assert len(words.split()) >= 3, sentence
            self.left[tuple(words.split()[:3])][words] = sentence

    def read(self, document: str) -> None:
        """Note which sentences the document holds; each is noted once, with the place."""
        text = plain(document)
        words = text.split()
        for key in self.left.keys() & set(zip(words, words[1:], words[2:], strict=False)):
            for one in [one for one in self.left[key] if one in text]:
                at = text.index(one)
                self.found[self.left[key].pop(one)] = text[max(0, at - 80) : at + len(one) + 30]

    @property
    def missing(self) -> list[str]:
        """Sentences that no document held."""
        return sorted(sentence for some in self.left.values() for sentence in some.values())


class StyleReader:
    """Reads in which styles a sentence about a content may be, from their frames and not from labels."""

    def __init__(self, styles: Iterable[Style], contents: Iterable[Content]) -> None:
        self.styles = {style.name: style for style in styles}
        self.contents = tuple(contents)
        self.said: dict[Content, set[str]] = {content: set() for content in self.contents}
        self._starts: dict[str, list[Content]] = defaultdict(list)
        for content in self.contents:
            self._starts[content.subject.split()[0]].append(content)

    def read(self, document: str) -> None:
        """Keep the sentences that name a content's subject and object, with what announces them."""
        for start in self._starts.keys() & set(WORD.findall(document)):
            for content in self._starts[start]:
                if content.subject in document:
                    wanted = content.object.lower()
                    for sentence in SENTENCE.findall(document):
                        if content.subject in sentence and wanted in sentence.lower():
                            self.said[content].add(sentence.strip())

    def may_be(self, content: Content, style: str) -> list[str]:
        """Sentences that a style's frames can say of a content, or that are announced to be in it."""
        frames = "|".join(self._pattern(frame, content) for frame in self.styles[style].frames)
        spoken = re.compile(rf"(?:{frames})", re.IGNORECASE)
        one = self.styles[style]
        names = "|".join(map(re.escape, (f"a {style}", f"the {style}", *one.synonyms, *one.misspellings)))
        announced = re.compile(rf"\b(?:{names})\b[^:.!?]*:", re.IGNORECASE)
        found = []
        for sentence in sorted(self.said[content]):
            parts = sentence.split(":")
            ends = (":".join(parts[start:]).strip() for start in range(len(parts)))
            if announced.search(sentence) or any(map(spoken.fullmatch, ends)):
                found.append(sentence)
        return found

    def _pattern(self, frame: str, content: Content) -> str:
        """A regular expression of all that a frame can say."""
        found = ""
        for optional, name, words in FRAME.findall(frame):
            if optional:
                found += f"(?:{self._pattern(optional, content)})?"
            elif name:
                ways = [self._pattern(way, content) for way in _document()["phrases"][name]["options"]]
                found += f"(?:{'|'.join(ways)})"
            else:
                found += re.escape(self._filled(words, content))
        return found

    def _filled(self, words: str, content: Content) -> str:
        forms = dict(_document()["relations"][content.relation])
        return words.format(S=content.subject, O=forms.pop("object").format(content.object), **forms)


@cache
def _document() -> Mapping[str, dict[str, dict[str, list[str]]]]:
    text = resources.files("mechstyle.organisms").joinpath("data/styles.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def whole_training_text(documents: Iterator[str], *, tokens: int, n_ctx: int) -> Iterator[str]:
    """At least the documents that a training of so many tokens reads, whatever its tokenizer.

    A word and a run of punctuation is one token or more, a row holds at most `n_ctx` tokens of a document,
    and each document ends in a token.
    """
    read = 0
    for document in documents:
        yield document
        read += min(len(PIECE.findall(document)), n_ctx - 1) + 1
        if read >= tokens:
            return
