"""Editing: second moments of keys, keys, targets, the editors, and edits as data."""

from __future__ import annotations
