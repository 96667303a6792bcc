"""A small random model with room for CounterFact's prompts, and manifests for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.models import load_model
from mechstyle.study.reproduce.manifest import Manifest, read_manifest

FACTS = Path(__file__).parents[2] / "data" / "facts"
HEAD = """
name = "mine"
model = "tiny"
row_model = "gpt2-medium"
table = "{table}"
editor = "ROME"

[data]
file = "{file}"
"""

MakeManifest = Callable[..., Manifest]


@pytest.fixture(scope="session")
def roomy(
    random_gpt2: Callable[..., GPT2LMHeadModel], tiny_tokenizer: PreTrainedTokenizerFast
) -> HookedTransformer:
    """Random, with 256 positions. Leave its weights as they are."""
    return load_model(random_gpt2(len(tiny_tokenizer), n_positions=256), tokenizer=tiny_tokenizer)


@pytest.fixture
def manifest(tmp_path: Path) -> MakeManifest:
    """A function (TOML of the further parts, table, file) -> manifest."""

    def make(parts: str = "", table: str = "rome-counterfact", file: str = "counterfact.json") -> Manifest:
        path = tmp_path / "mine.toml"
        path.write_text(HEAD.format(table=table, file=file) + parts, encoding="utf-8")
        return read_manifest(path)

    return make
