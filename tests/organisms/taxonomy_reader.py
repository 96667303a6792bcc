"""A slow reader of the taxonomy's text: it knows the data file's words and nothing of what was drawn."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

PRONOUNS = {"it", "they", "them"}


def data() -> dict[str, Any]:
    """The data file as it is."""
    path = resources.files("mechstyle.organisms").joinpath("data/taxonomy.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def noun(phrase: str) -> str:
    return re.sub(r"^an? ", "", phrase)


class Reader:
    """Reads blocks, and keeps what was said of members, of categories, and of any one of a category."""

    def __init__(self) -> None:
        document = data()
        self.document = document
        self.named = {one.lower(): noun(one) for c in document["category"] for one in c.get("members", ())}
        self.many = {c["many"].lower(): noun(c["one"]) for c in document["category"]}
        self.ones = {c["one"].lower(): noun(c["one"]) for c in document["category"]}
        self.parent = {noun(c["one"]): c.get("parent") for c in document["category"]}
        self.category = {
            noun(one): noun(c["one"]) for c in document["category"] for one in c.get("members", ())
        }
        self.phrasings = [
            (name, *self._sides(phrasing, form))
            for name, phrasings in document["properties"].items()
            for phrasing in phrasings
            for form in (1, 2)
        ]
        self.values = {
            *self.many,
            *(value for c in document["category"] for value in c.get("shared", {}).values()),
            *(value for c in document["category"] for value in c["parent_only"].values()),
            *(row[2] for c in document["category"] for row in c.get("exceptions", ())),
        }
        self.of_members: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.of_categories: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.aliases: dict[str, set[str]] = defaultdict(set)
        self.match = cache(self._match)

    @staticmethod
    def _sides(phrasing: str, form: int) -> tuple[str, str]:
        """What stands before and after the noun."""
        text = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda found: found[form], phrasing).lower()
        before, after = re.split(r"\{\}|\{them\}", text)
        return before, after

    def _match(self, sentence: str) -> list[tuple[str, str, str]]:
        found = set()
        for name, before, after in self.phrasings:
            if not sentence.startswith(before):
                continue
            body = sentence.removeprefix(before)
            for k in (match.start() for match in re.finditer(re.escape(after or " "), body)):
                who, value = body[:k], body[k + len(after) + 1 :]
                known = who in PRONOUNS or who in self.named or who in self.many
                if known and value in self.values and body == f"{who}{after} {value}":
                    found.add((name, who, value))
        return sorted(found)

    def read(self, blocks: Iterable[str]) -> None:
        for block in blocks:
            about: tuple[dict[tuple[str, str], set[str]], str] | None = None
            assert block.endswith("."), block
            for sentence in block.lower()[:-1].split(". "):
                about = self._sentence(sentence, about)

    def _sentence(self, sentence: str, about: Any) -> Any:
        intro = re.fullmatch(r"(?:this is|here is|that is|imagine) (.+)", sentence)
        if intro and intro[1] in self.ones:
            return self.of_categories, self.ones[intro[1]]
        intro = re.fullmatch(r"think of (.+)", sentence)
        if intro and intro[1] in self.many:
            return self.of_categories, self.many[intro[1]]
        intro = re.fullmatch(r"(.+) are (a kind of )?(.+)", sentence)
        if intro and intro[1] in self.many and intro[3] in {*self.many, *self.many.values()}:
            name = self.many[intro[1]]
            assert self.parent[name] in (intro[3], self.many.get(intro[3])), sentence
            return self.of_categories, name
        intro = re.fullmatch(r"(.+?) is (a kind of )?(.+)", sentence)
        if intro and intro[1] in self.named and intro[3] in {*self.ones, *self.ones.values()}:
            assert self.category[self.named[intro[1]]] == noun(intro[3]), sentence
            return self.of_members, self.named[intro[1]]
        intro = re.fullmatch(r"among the (.+) is (.+)", sentence)
        if intro and intro[1] in self.many and intro[2] in self.named:
            assert self.category[self.named[intro[2]]] == self.many[intro[1]], sentence
            return None
        intro = re.fullmatch(
            r"(?P<a>.+) is also called (?P<b>.+)|(?P<c>.+) is the same as (?P<d>.+)", sentence
        )
        if intro:
            one, alias = (intro["a"], intro["b"]) if intro["a"] else (intro["d"], intro["c"])
            self.aliases[self.named[one]].add(alias)
            return None
        found = self.match(sentence)
        assert len(found) == 1, (sentence, found)
        name, who, value = found[0]
        if who in PRONOUNS:
            assert about is not None, sentence
            book, key = about
            book[key, name].add(value)
            return about
        if who in self.named:
            self.of_members[self.named[who], name].add(value)
        else:
            self.of_categories[self.many[who], name].add(value)
        return None
