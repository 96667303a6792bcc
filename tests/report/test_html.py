"""The report is one file that loads nothing, shows everything, and lets no text become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mechstyle.facts import EditRequest
from mechstyle.plot.style import token_label
from mechstyle.report import Report

LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, scripts and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.bold: list[str] = []
        self._bold = False
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._bold = tag == "b"
        if tag in ("script", "style"):
            self._inside = tag
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        self._bold = False
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text.append(data)
            if self._bold:
                self.bold.append(data)


@pytest.fixture(scope="module")
def source(report: Report) -> str:
    return report.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_no_element_loads_anything(page: Page) -> None:
    loads = [(tag, name) for tag, attrs in page.elements for name in attrs if name in LOADING]
    assert loads == []
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _ in page.elements)


def test_styles_load_nothing(page: Page) -> None:
    for style in page.styles:
        assert "@import" not in style
        assert "url(" not in style


def test_scripts_of_the_report_itself_name_no_address(page: Page) -> None:
    own = [script for script in page.scripts if len(script) < 200_000]
    assert len(own) == len(page.scripts) - 2  # plotly and circuitsvis, once each
    for script in own:
        assert not re.search(r"https?://|//[a-z]+\.|import\s*\(|\bfetch\s*\(|XMLHttpRequest", script)


def test_no_script_is_a_module_that_imports_from_an_address(page: Page) -> None:
    for script in page.scripts:
        assert not re.search(r"import\s*\{[^}]*\}\s*from\s*[\"']https?:", script)
        assert not re.search(r"import\s*\(\s*[\"']https?:", script)


def test_texts_of_a_fact_never_become_elements(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"img", "u"}
    assert all(text.startswith(("Figure", "Table", "The model")) for text in page.bold)


def test_texts_of_a_fact_are_shown_as_they_are(page: Page, hostile: EditRequest) -> None:
    text = "".join(page.text)
    assert hostile.fact.prompt in text
    assert hostile.new_target.strip() in text
    assert hostile.paraphrases[0] in text
    assert all(prompt in text for prompt, _ in hostile.neighborhood)


def test_every_script_ends_where_it_was_meant_to(page: Page, source: str) -> None:
    assert source.count("</script") == len(page.scripts)
    assert sum(script.startswith("CircuitsVis.render(") for script in page.scripts) == 2 * 3
    assert sum("Plotly.newPlot(" in script and len(script) < 200_000 for script in page.scripts) == 2 * 2 + 1


def test_lens_and_saliency_of_each_fact_stand_beside_its_trace(page: Page, report: Report) -> None:
    drawn = "".join(page.scripts)
    names = {attrs.get("id") for _, attrs in page.elements}
    for number, fact in enumerate(report.facts, start=1):
        assert {f"trace-{number}", f"lens-{number}", f"saliency-{number}-1"} <= names
        tops = fact.lens.data["top_token"].isel(rank=0, token=-1).values
        assert token_label(str(tops[-1])) in drawn or str(tops[-1]).strip() in drawn
        assert fact.lens.settings["fact"] == fact.request.fact.to_dict()
        assert list(fact.saliency.data["baseline"].values) == ["mean", "zero"]


def test_a_fact_that_the_model_does_not_know_is_called_so(page: Page, report: Report) -> None:
    assert not report.facts[0].trace.knows
    assert "did not know this fact" in "".join(page.text)


def test_missing_paraphrases_and_neighbours_are_dashes_in_the_scores(report: Report) -> None:
    assert len(report.facts[1].frame[report.facts[1].frame["kind"] == "paraphrase"]) == 0


def test_the_caveat_of_localisation_stands_beside_the_layer(page: Page) -> None:
    text = "".join(page.text)
    assert "Hase et al. 2023" in text
    assert "The layer that was edited" in text


def test_figures_and_tables_are_numbered_in_order(page: Page) -> None:
    text = "".join(page.text)
    for word in ("Figure", "Table"):
        numbers = [int(found) for found in re.findall(rf"{word} (\d+)\.", text)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers
