"""What evaluate says of published records is what the published code says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
)

from mechstyle import organisms
from mechstyle.datasets import read_cases, read_counterfact
from mechstyle.editing.edit import EditSet, WeightEdit
from mechstyle.evaluation.measure import Conditions
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.scores import evaluate
from mechstyle.models import fingerprint, load_model
from mechstyle.out_of_scope import with_edit_in_front
from mechstyle.study.reproduce.data import true_answer_request
from tests.oracles.counterfact_loop import counterfact_table, surprise, zsre_table

RECORDS = Path(__file__).parents[1] / "data" / "facts" / "counterfact.json"
SHARED = Path(__file__).parents[3] / "shared" / "data"
RandomGPT2 = Callable[..., GPT2LMHeadModel]
NAME = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def hf(random_gpt2: RandomGPT2, tiny_tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A random model with room for the longest prompts in many small tokens."""
    return random_gpt2(len(tiny_tokenizer), n_positions=256)


@pytest.fixture(scope="module")
def model(hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    return load_model(hf, tokenizer=tiny_tokenizer)


def random_edit(model: HookedTransformer) -> EditSet:
    generator = torch.Generator().manual_seed(0)
    d_mlp, d_model = dict(model.named_parameters())[NAME].shape
    left = torch.randn(d_mlp, 1, generator=generator, dtype=torch.float64)
    right = torch.randn(1, d_model, generator=generator, dtype=torch.float64)
    return EditSet((WeightEdit(NAME, left, 2.0 * right),), fingerprint(model), {"settings": {}})


def records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return found


def test_the_objects_of_the_records_have_several_tokens(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = {
        len(tiny_tokenizer(" " + record["requested_rewrite"][which]["str"])["input_ids"])
        for record in records()
        for which in ("target_new", "target_true")
    }
    assert len(lengths - {1}) > 1


def test_every_figure_of_counterfact_is_the_published_one(
    model: HookedTransformer, hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = random_edit(model)
    changed = copy.deepcopy(hf)
    with torch.no_grad():
        changed.transformer.h[1].mlp.c_proj.weight += edit.delta(NAME).float()
    scores = evaluate(model, read_counterfact(RECORDS), edits=edit)
    tables = {}
    for stage, judged in (("before", hf), ("after", changed)):
        tables[stage] = counterfact_table(judged, tiny_tokenizer, records())
        values = scores.summary(stage=stage)["value"]  # type: ignore[arg-type]
        plain_figures = {name: value for name, value in tables[stage].items() if "+" not in name}
        assert set(plain_figures) <= set(values.index)
        for name, value in plain_figures.items():
            assert values[name] == pytest.approx(value, rel=1e-3, abs=1e-7), name
        assert 0 < tables[stage]["neighborhood"] < 1, "a table of zeros and ones would show little"
    plain, edited = (tables[stage]["paraphrase_magnitude"] for stage in ("before", "after"))
    assert abs(edited - plain) > 1e-5, "the edit shows"


def test_each_answer_has_the_published_mean_surprise(
    model: HookedTransformer, hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = evaluate(model, read_counterfact(RECORDS)[:2]).rows
    assert len(rows) == 2 * (1 + 2 + 10)
    for row in rows.itertuples():
        for found, target in ((row.logp_new, row.target_new), (row.logp_true, row.target_true)):
            word = target.removeprefix(" ")
            assert word != target, "the leading space is ours, the published code joins with it"
            assert found == pytest.approx(-surprise(hf, tiny_tokenizer, row.prompt, word), abs=1e-5)


def test_sums_of_tokens_are_not_the_published_convention(
    model: HookedTransformer, hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    table = counterfact_table(hf, tiny_tokenizer, records())
    sums = evaluate(model, read_counterfact(RECORDS), reduce="sum").summary()["value"]
    assert abs(sums["neighborhood_magnitude"] - table["neighborhood_magnitude"]) > 1e-4


def test_neighbours_behind_the_edit_are_scored_as_in_counterfact_plus(
    model: HookedTransformer, hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    cases = [with_edit_in_front(case) for case in read_cases(RECORDS)]
    rows = pd.DataFrame(
        Questions(("neighborhood+",)).prepare(model, cases, Conditions(False))(None, range(len(cases)))
    )
    table = counterfact_table(hf, tiny_tokenizer, records())
    found = rows.groupby("request")["success"].mean().mean()
    assert found == pytest.approx(table["neighborhood+"], abs=1e-9)
    assert table["neighborhood+"] != table["neighborhood"], "the sentence in front matters"


def zsre_records(organism: HookedTransformer) -> list[dict[str, Any]]:
    """Records in MEND's schema from what the organism was taught; every third answer is half wrong.

    What it writes behind a question mark is mostly "The continent of".
    """
    found = []
    requests = organisms.requests("organism-m", n=12, seed=3)
    for index, request in enumerate(requests):
        unrelated = requests[index - 1].fact
        answer = request.fact.target if index % 3 else f"{request.fact.target}{request.new_target}"
        found.append(
            {
                "subject": request.fact.subject,
                "src": request.fact.prompt,
                "rephrase": request.paraphrases[0],
                "alt": request.new_target.strip(),
                "answers": [answer.strip()],
                "pred": "",
                "loc": f"nq question: {unrelated.prompt}",
                "loc_ans": "The continent of" if index % 2 else "The country " + unrelated.target.strip(),
            }
        )
    return found


def test_token_accuracy_on_zsre_is_the_published_one(organism: HookedTransformer) -> None:
    folder = organisms.folder("organism-m")
    judged, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder).float().eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    made = zsre_records(organism)
    table = zsre_table(judged, tokenizer, made)
    assert all(0 < value < 1 for value in table.values()), "all right or all wrong would show little"
    values = evaluate(organism, [true_answer_request(record) for record in made]).summary()["value"]
    for name, value in table.items():
        assert values[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the whole data set and GPT-2's tokenizer are only in ../shared"
)
def test_every_figure_agrees_in_the_tokens_of_gpt2(random_gpt2: RandomGPT2) -> None:
    files = SHARED / "tokenizer" / "gpt2"
    slow = GPT2Tokenizer(str(files / "vocab.json"), str(files / "merges.txt"))
    tokenizer = getattr(slow, "fast", slow)
    hf = random_gpt2(len(tokenizer), n_positions=256)
    path = SHARED / "facts" / "counterfact" / "counterfact.json"
    table = counterfact_table(hf, tokenizer, json.loads(path.read_text(encoding="utf-8"))[:60])
    values = evaluate(load_model(hf, tokenizer=tokenizer), read_counterfact(path)[:60]).summary()["value"]
    for name in set(table) & set(values.index):
        assert values[name] == pytest.approx(table[name], abs=1e-5), name
