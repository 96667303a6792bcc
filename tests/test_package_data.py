"""What lies beside the code is installed with it."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_BEHIND = ("__pycache__",)


def test_every_file_beside_the_code_is_package_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["package-data"]
    patterns = [
        f"{package.replace('.', '/')}/{pattern.replace('**/*', '*')}"
        for package, each in listed.items()
        for pattern in each
    ]
    missing = []
    for path in (ROOT / "mechstyle").rglob("*"):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and path.suffix != ".py" and not any(part in name for part in LEFT_BEHIND):
            missing += [] if any(fnmatch(name, pattern) for pattern in patterns) else [name]
    assert missing == []
