"""The house stands: imports point down only, no file is too long, and more rules that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mechstyle

PACKAGE = Path(mechstyle.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

LAYERS = {
    "errors": 1, "facts": 1, "files": 1, "cache": 1, "outputs": 1, "datasets": 1, "metrics": 1, "solve": 1,
    "null_space": 1, "spans": 1, "organisms": 1, "documents": 1, "records": 1, "plain_json": 1, "requests": 1,
    "cases": 1, "beliefs": 1, "rewordings": 1, "described": 1,
    "case_files": 1, "taxi": 1, "schemas": 1, "true_false": 1, "out_of_scope": 1,
    "models": 2, "hf_source": 2, "hf_convert": 2, "hf_files": 2, "hf_layouts": 2, "hf_configs": 2,
    "hf_new_configs": 2, "hf_tables": 2, "hf_parity": 2, "hf_memory": 2, "identity": 2,
    "weights": 2, "bridge": 2, "blocks": 2, "tokens": 2, "answers": 2, "texts": 2, "runs": 2, "hooks": 2,
    "sites": 2, "threads": 2,
    "tracing": 3, "editing": 3, "evaluation": 3,
    "plot": 4, "report": 4, "study": 4, "cli": 4, "__main__": 4, "organism making": 4,
}  # fmt: skip
MAKING = {"collect", "fluency", "gates", "obedience", "recall", "tokenizer", "train"}
"""Files of ``organisms/`` that make the embedded models; the others only look up what was taught."""
ALLOWED_ASIDE = {("evaluation", "editing")}
"""Within a layer: rooms of layer 3 do not import each other, but an evaluation may apply an edit."""
MAX_LINES = 300
KNOWS_TRANSFORMER_LENS = {"models", "hf_convert", "bridge", "blocks"}


def room(path: Path) -> str:
    return room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def room_of(module: str) -> str:
    """The room of a module, given without the leading ``mechstyle.``."""
    parts = module.split(".")
    return "organism making" if parts[0] == "organisms" and parts[1:2] and parts[1] in MAKING else parts[0]


def label(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere, type checking and functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ("mechstyle", *path.relative_to(PACKAGE).parts[:-1])
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names.add(module)
            names |= {f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")}
    return names


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name.startswith("mechstyle.") and (path.is_dir() or path.with_suffix(".py").is_file())


def calls(path: Path, name: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_every_room_has_a_layer() -> None:
    assert {room(path) for path in FILES} - {"__init__"} <= set(LAYERS)


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "__init__"], ids=label)
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for name in imported(path):
        there = room_of(name.removeprefix("mechstyle."))
        if not name.startswith("mechstyle.") or there == here:
            continue
        lower = LAYERS[there] < LAYERS[here]
        same_low_or_front = LAYERS[there] == LAYERS[here] and LAYERS[here] != 3
        assert lower or same_low_or_front or (here, there) in ALLOWED_ASIDE, f"{here} must not import {there}"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module says in one line what it is"
    assert path.stem != "utils"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_modules_name_what_they_export(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    only_docstring = len(tree.body) == 2 and path.name == "__init__.py"
    assert "__all__" in assigned or only_docstring or path.name == "__main__.py"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_the_library_does_not_print(path: Path) -> None:
    assert room(path) == "cli" or not calls(path, "print")


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_model_files_know_transformer_lens(path: Path) -> None:
    if room(path) not in KNOWS_TRANSFORMER_LENS:
        assert not any(name.split(".")[0] == "transformer_lens" for name in imported(path))


@pytest.mark.parametrize("path", [path for path in FILES if LAYERS.get(room(path)) == 1], ids=label)
def test_data_and_maths_know_no_model(path: Path) -> None:
    assert not any(name.split(".")[0] in ("transformer_lens", "transformers") for name in imported(path))
