"""Published facts, as they were published: every record is read, tokenised and traced, or counted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.datasets import read_counterfact, read_known_facts
from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.models import load_model
from mechstyle.tokens import encode_fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.trace_facts import trace_facts
from tests.checkpoints import random_hf

DATA = Path(__file__).parents[1] / "data" / "facts"
SHARED = Path(__file__).parents[3] / "shared" / "data"
WHOLE = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are only in ../shared")
SETS = ("known_1000", "counterfact")
TRACER: Any = partial(causal_trace, kinds=("mlp",), samples=1, sigma=1.0, answer="predicted")


def facts_of(folder: Path, name: str) -> list[Fact]:
    path = folder / f"{name}.json"
    if name == "known_1000":
        return read_known_facts(path)
    return [request.fact for request in read_counterfact(path)]


def whole(name: str) -> list[Fact]:
    return facts_of(SHARED / "facts" / name, name)


@pytest.fixture(scope="module")
def bytewise(tiny_tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    """A random model that reads most words letter by letter."""
    hf = random_hf("gpt2", len(tiny_tokenizer), n_positions=256, n_layer=2, n_embd=16, n_head=2)
    return load_model(hf, tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def wordwise() -> HookedTransformer:
    """A random model with GPT-2's own tokenizer."""
    folder = SHARED / "tokenizer" / "gpt2"
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)
    hf = random_hf("gpt2", len(fast), n_layer=2, n_embd=8, n_head=2)
    return load_model(hf, tokenizer=fast, check_parity=False)


def check(trace: Trace, fact: Fact) -> None:
    """What holds for every trace: nothing before the subject counts, and the end is the clean run."""
    strings, roles = trace.data["token_str"].values.tolist(), trace.data["role"].values.tolist()
    named = {one for one, role in zip(strings, roles, strict=True) if "subject token" in role}
    assert all(one.strip() in fact.subject for one in named)
    first = min(at for at, role in enumerate(roles) if "subject token" in role)
    assert trace.knows
    for kind in trace.kinds:
        effect = trace.indirect_effect(kind).values
        assert np.isfinite(effect).all()
        assert (effect[:first] == 0).all()
    if "resid" in trace.kinds:
        assert trace.data["resid"].values[0, -1, -1] == pytest.approx(trace.clean, abs=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_every_record_of_the_fixtures_is_traced(name: str, bytewise: HookedTransformer) -> None:
    facts = facts_of(DATA, name)
    assert len(facts) == 5
    traces = trace_facts(bytewise, facts, tracer=partial(TRACER, kinds=("resid", "mlp", "attn")))
    assert len(traces) == len(facts)
    assert len(traces.skipped) == 0
    for fact, trace in zip(traces.facts, traces, strict=True):
        check(trace, fact)


def test_what_a_random_model_does_not_know_is_counted_and_none_is_an_error(
    bytewise: HookedTransformer,
) -> None:
    facts = facts_of(DATA, "known_1000")
    with pytest.raises(InputError, match=r"none of the 5 can be traced: 5 not known.*skip_unknown=False"):
        trace_facts(bytewise, facts)
    traced = trace_facts(bytewise, facts, tracer=partial(TRACER, answer=None), skip_unknown=False)
    assert [trace.knows for trace in traced] == [False] * 5


def test_published_counterparts_of_unequal_length_are_told_with_their_tokens(
    bytewise: HookedTransformer,
) -> None:
    one, other = facts_of(DATA, "counterfact")[:2]
    with pytest.raises(InputError, match=r"(?s)corrupted: expected \d+ tokens.*clean:.*corrupted:"):
        activation_patching(bytewise, one, other)


@WHOLE
@pytest.mark.parametrize(("name", "count"), [("known_1000", 700), ("counterfact", 450)])
def test_every_published_record_is_tokenised_with_its_subject(
    name: str, count: int, wordwise: HookedTransformer, organism: HookedTransformer
) -> None:
    facts = whole(name)
    assert len(facts) == count
    for model in (wordwise, organism):
        for fact in facts:
            encoded = encode_fact(model, fact)
            assert encoded.subject is not None
            start, stop = encoded.offsets[encoded.subject[0]][0], encoded.offsets[encoded.subject[-1]][1]
            assert encoded.text[start:stop].strip() == fact.subject.strip()
            end = encoded.offsets[encoded.n_prompt - 1][1]
            assert encoded.text[end:] == fact.target


@WHOLE
@pytest.mark.parametrize("name", SETS)
def test_some_published_records_are_traced(name: str, wordwise: HookedTransformer) -> None:
    facts = whole(name)[::90]
    traces = trace_facts(wordwise, facts, tracer=partial(TRACER, kinds=("resid", "mlp")))
    assert traces.facts == tuple(dict.fromkeys(facts))
    for fact, trace in zip(traces.facts, traces, strict=True):
        check(trace, fact)


@WHOLE
@pytest.mark.parametrize("name", SETS)
def test_the_organism_knows_a_few_published_facts_and_counts_the_others(
    name: str, organism: HookedTransformer, tmp_path: Path
) -> None:
    facts = whole(name)[:7]
    traces = trace_facts(
        organism,
        facts,
        tracer=partial(causal_trace, kinds=("mlp",), samples=1, sigma=0.1),
        folder=tmp_path / "t",
    )
    assert len(traces) + len(traces.skipped) == len(facts)
    assert 0 < len(traces) < len(facts)
    assert set(traces.skipped["reason"]) <= {"not known", "given twice"}
    assert all(trace.knows for trace in traces)


@WHOLE
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_published_record_is_traced(name: str, wordwise: HookedTransformer, tmp_path: Path) -> None:
    facts = whole(name)
    traces = trace_facts(wordwise, facts, tracer=TRACER, folder=tmp_path / "traces")
    assert traces.facts == tuple(dict.fromkeys(facts))
    assert set(traces.skipped["reason"]) <= {"given twice"}
    for fact, trace in zip(traces.facts, traces, strict=True):
        check(trace, fact)
