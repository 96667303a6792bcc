"""Published tables, row by row: a manifest says how a figure comes about, and our figure stands beside it."""

from __future__ import annotations

from mechstyle.study.reproduce.manifest import Manifest, manifest_names, read_manifest
from mechstyle.study.reproduce.published import PublishedRow, published_row, published_rows
from mechstyle.study.reproduce.reproduction import Reproduction
from mechstyle.study.reproduce.run import reproduce

__all__ = [
    "Manifest",
    "PublishedRow",
    "Reproduction",
    "manifest_names",
    "published_row",
    "published_rows",
    "read_manifest",
    "reproduce",
]
