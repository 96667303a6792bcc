"""A suite as a TOML file: which cases, which measures, and how they are run."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import Field, ValidationError

from mechstyle import organisms
from mechstyle.cases import Case
from mechstyle.errors import FileError, InputError
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.section import Section, Sources
from mechstyle.evaluation.suite import AT_ONCE, COLLATERAL_EDITS
from mechstyle.evaluation.suite_sections import SECTIONS

__all__ = ["CasesSection", "RunSection", "Suite", "packaged_suites", "read_suite"]

SUITES: Final = "suites"


class RunSection(Section):
    """[run]: as of ``run_suite``."""

    seed: int = 0
    prepend_bos: bool | None = None
    batch_size: int = Field(default=32, ge=1)
    at_once: int = Field(default=AT_ONCE, ge=1)
    collateral_edits: int = Field(default=COLLATERAL_EDITS, ge=0)
    """0 measures everything else under all edits."""


class CasesSection(Section):
    """[cases]: drawn from an embedded model's world, where no requests are given."""

    n: int = Field(default=20, ge=1)
    seed: int = 0
    by_axis: bool = False
    """Cases with ripples on as many axes as there are, instead of a random sample."""


@dataclass(frozen=True)
class Suite:
    """What a suite file says.

    Args:
        folder: in which its relative paths start.
        sections: of measures, by name.
    """

    folder: Path
    run: RunSection
    cases: CasesSection
    sections: Mapping[str, Section]

    def seeded(self, seed: int) -> Suite:
        """The same with another seed, of the cases that are drawn too."""
        update = {"seed": seed}
        return replace(
            self, run=self.run.model_copy(update=update), cases=self.cases.model_copy(update=update)
        )

    def own_cases(self, organism: str | None) -> list[Case]:
        """Cases of an embedded model's world.

        Raises:
            InputError: the model is not an embedded one.
        """
        if organism is None:
            raise InputError("requests: the model brings no facts of its own; name them by --requests FILE.")
        n, seed = self.cases.n, self.cases.seed
        if not self.cases.by_axis:
            return organisms.cases(organism, n=n, seed=seed)
        asked = [case.request for case in organisms.ripple_cases(organism, n=n, seed=seed)]
        return organisms.cases_for(organism, asked, seed=seed)

    def prepared(self, cases: Sequence[Case], organism: str | None) -> tuple[list[Case], list[Measure]]:
        """The cases with what the sections add to them, and the measures.

        Args:
            organism: name of the embedded model that is evaluated; None for any other.

        Raises:
            InputError: a section wants what the model does not bring.
            FileError: a file that a section names is missing or wrong.
        """
        sources, found = Sources(organism, self.folder, self.run.seed), list(cases)
        for section in self.sections.values():
            found = section.extended(found, sources)
        return found, [section.measure(found, sources) for section in self.sections.values()]


def packaged_suites() -> list[str]:
    """Names of the suites that come with the package.

    >>> packaged_suites()
    ['full', 'quick', 'scores']
    """
    folder = resources.files("mechstyle.evaluation").joinpath(SUITES)
    return sorted(Path(one.name).stem for one in folder.iterdir() if one.name.endswith(".toml"))


def read_suite(path: str | os.PathLike[str]) -> Suite:
    """Read a suite file, or a packaged suite by its name.

    Raises:
        FileError: the file is missing or not TOML, or says what no suite understands; the place is named.

    >>> sorted(read_suite("quick").sections)
    ['perplexity', 'questions', 'scores']
    """
    place = Path(path)
    if not place.is_file() and os.fspath(path) in packaged_suites():
        found = resources.files("mechstyle.evaluation").joinpath(SUITES, f"{os.fspath(path)}.toml")
        return _suite(os.fspath(path), found.read_text(encoding="utf-8"), Path())
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"cannot read the suite {path}: {reason}. Name a TOML file, or one of the packaged suites: "
            f"{', '.join(packaged_suites())}."
        ) from error
    return _suite(str(path), text, place.parent)


def _suite(name: str, text: str, folder: Path) -> Suite:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{name} is not TOML: {error}.") from error
    known: dict[str, type[Section]] = {"run": RunSection, "cases": CasesSection, **SECTIONS}
    for section in data:
        if section not in known:
            raise FileError(f"{name}: no section is called [{section}]; there are {', '.join(known)}.")
    parsed = {section: _parsed(name, section, known[section], data[section]) for section in data}
    measures = {section: parsed[section] for section in SECTIONS if section in parsed}
    if not measures:
        raise FileError(f"{name}: measures nothing; give it one or more of {', '.join(SECTIONS)}.")
    run, cases = parsed.get("run", RunSection()), parsed.get("cases", CasesSection())
    assert isinstance(run, RunSection)
    assert isinstance(cases, CasesSection)
    return Suite(folder, run, cases, MappingProxyType(measures))


def _parsed(name: str, section: str, kind: type[Section], data: Any) -> Section:
    """One section; the first thing that is wrong is told in one line."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise FileError(
                f"{name}, [{section}]: does not know {where!r}; it knows {', '.join(kind.model_fields)}."
            ) from error
        raise FileError(
            f"{name}, [{section}] {where}: {first['msg']}, got {first['input']!r:.80}."
        ) from error
