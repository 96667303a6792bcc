"""The pages say what is true: their code runs, their names, links and command-line options exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import mechstyle as ms

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "experiments", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for name in FOLDERS for page in ROOT.glob(f"{name}/**/*.md"))])
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
PUBLIC_NAME = re.compile(r"\bms((?:\.[A-Za-z_]\w*)+)")
LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _text(path: Path) -> str:
    return COMMENT.sub("", path.read_text(encoding="utf-8"))


def _blocks(path: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(_text(path)) if found == language]


def _run_page(path: Path) -> None:
    """Run the Python blocks of a page, in order and in one namespace."""
    namespace: dict[str, object] = {"__name__": path.stem}
    blocks = _blocks(path, "python")
    assert blocks, f"{_named(path)} holds no Python block"
    for number, code in enumerate(blocks, start=1):
        exec(compile(code, f"{_named(path)}, block {number}", "exec"), namespace)


def _resolve(dotted: str) -> bool:
    """Whether ``.name`` is public, and for a public module ``.module.name`` as well."""
    first, *rest = dotted.removeprefix(".").split(".")
    if first not in ms.__all__:
        return False
    found = getattr(ms, first)
    if isinstance(found, ModuleType) and rest:
        return rest[0] in found.__all__
    return not rest or isinstance(found, ModuleType) or hasattr(found, rest[0])


def test_the_tutorial_runs_and_its_assertions_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run_page(ROOT / "docs/tutorials/first_edit.md")


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run_page(ROOT / "README.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "read_a_trace",
        "read_a_prompt",
        "patching",
        "trace_many_facts",
        "compare_traces",
        "corruptions_and_targets",
        "stack_and_undo",
    ],
)
def test_how_to_pages_on_the_organism_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run_page(ROOT / f"docs/how-to/{page}.md")


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_code_in_pages_is_valid_python_and_uses_public_names_only(page: Path) -> None:
    for code in _blocks(page, "python"):
        compile(code, _named(page), "exec")
    unknown = {name for name in PUBLIC_NAME.findall(_text(page)) if not _resolve(name)}
    assert not unknown, f"{_named(page)} names what is not public: {sorted(unknown)}"


def test_the_check_of_public_names_notices_an_invented_one() -> None:
    assert _resolve(".organisms.requests")
    assert _resolve(".Trace.load")
    assert not any(_resolve(name) for name in (".invented", ".organisms.invented", ".Trace.invented"))


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_relative_links_in_pages_lead_somewhere(page: Path) -> None:
    targets = [link or image for link, image in LINK.findall(_text(page))]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [target for target in local if target and not (page.parent / target).exists()]
    assert not missing, f"{_named(page)} links to what is not there: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_command_lines_in_pages_use_commands_and_options_that_exist(page: Path) -> None:
    import typer

    from mechstyle.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in "".join(_blocks(page, "console") + _blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if len(words) < 2 or words[0] != "mechstyle" or words[1].startswith("-"):
            continue
        assert words[1] in commands, f"{_named(page)}: mechstyle has no command {words[1]!r}"
        command = commands[words[1]]
        command = getattr(command, "commands", {}).get(words[2], command) if len(words) > 2 else command
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help", "-h"}
        used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
        assert used <= known, f"{_named(page)}: {words[1]} has no option {sorted(used - known)}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if page not in navigation] == []
