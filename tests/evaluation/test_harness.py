"""The lm-evaluation-harness on our own runs: questions by a plain loop, tasks where it is installed."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation import HarnessTasks, Tasks, organism_task
from mechstyle.evaluation.harness import harness_model
from mechstyle.evaluation.harness_answers import HarnessAnswers
from mechstyle.facts import EditRequest, Fact
from tests.contracts.state import differences, everything
from tests.evaluation.collateral import PLAIN, destroying_edit, stages, values
from tests.evaluation.test_scores import edited, random_edit
from tests.oracles import collateral_loop, score_loop

MILES = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
TEXTS = (
    "The day was long.",
    "Rome is a city. Paris is the capital of Italy, and he was born. " * 5,
    "London",
)
EPSILON = 0.01


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")


def test_without_the_library_the_error_says_how_to_install_it(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm_eval", "lm_eval.evaluator"):
        monkeypatch.setitem(sys.modules, name, None)
    measure = HarnessTasks(("arc_easy",))
    for call in (
        measure.settings,
        lambda: measure.metrics,
        lambda: measure.prepare(tiny_model, [], PLAIN),
    ):
        with pytest.raises(InputError, match=r"need the library lm-eval; pip install 'mechstyle\[harness\]'"):
            call()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tasks": "arc_easy"}, InputError, "tasks: expected a list of names or configurations, got 'arc_e"),
        ({"tasks": ()}, InputError, "tasks: expected a list of names or configurations, got ()"),
        ({"tasks": ("a", {"dataset_path": "json"})}, InputError, r"tasks\[1\]: .* with the key 'task', got"),
        ({"tasks": ("a",), "limit": 0}, RangeError, "limit: expected a whole number of 1 or more, got 0"),
        ({"tasks": ("a",), "num_fewshot": -1}, RangeError, "num_fewshot: expected a whole number of 1 or"),
    ],
)
def test_wrong_wishes_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="HarnessTasks." + message.replace("()", r"\(\)")):
        HarnessTasks(**given)


def test_a_continuation_has_the_log_probability_of_a_loop_over_its_tokens(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = [
        ("Miles Davis plays the", " trumpet"),
        ("Miles Davis plays the", " piano and the guitar"),
        ("The day was ", "long"),
    ]
    edit = random_edit(tiny_model, 1)
    with edit.applied(tiny_model):
        found = HarnessAnswers(tiny_model, edit, PLAIN).loglikelihood(pairs)
    for (logp, greedy), (context, continuation) in zip(found, pairs, strict=True):
        whole = context + continuation
        expected = score_loop.answer(
            edited(tiny_hf, edit), tiny_tokenizer, context.rstrip(), whole[len(context.rstrip()) :]
        )
        assert logp == pytest.approx(sum(expected.logps), rel=1e-4)
        assert greedy == expected.exact


def test_before_an_empty_context_stands_bos(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tiny_tokenizer("Paris is")["input_ids"]
    begin = [tiny_tokenizer.bos_token_id]
    expected = math.fsum(
        math.log(collateral_loop.next_probabilities(tiny_hf, begin + ids[:place])[ids[place]])
        for place in range(len(ids))
    )
    ((found, _),) = HarnessAnswers(tiny_model, None, PLAIN).loglikelihood([("", "Paris is")])
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_token_across_the_border_is_cut_by_the_number_of_the_contexts_tokens(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    context, continuation = "The trum", "pet of Paris"
    alone, whole = (tiny_tokenizer(text)["input_ids"] for text in (context, context + continuation))
    assert whole[: len(alone)] != alone, "a token must straddle the border"
    expected = math.fsum(
        math.log(collateral_loop.next_probabilities(tiny_hf, whole[:place])[whole[place]])
        for place in range(len(alone), len(whole))
    )
    ((found, _),) = HarnessAnswers(tiny_model, None, PLAIN).loglikelihood([(context, continuation)])
    assert found == pytest.approx(expected, rel=1e-4)


def test_whole_texts_are_scored_in_windows_of_the_context(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    lengths = [len(tiny_tokenizer(text)["input_ids"]) for text in TEXTS]
    assert lengths[1] > 64 > lengths[0]
    found = HarnessAnswers(tiny_model, None, PLAIN).loglikelihood_rolling(TEXTS)
    for total, text in zip(found, TEXTS, strict=True):
        expected = collateral_loop.rolling_logp(tiny_hf, tiny_tokenizer, text, room=64)
        assert total == pytest.approx(expected, rel=1e-4)


def test_generation_is_greedy_and_ends_before_the_first_stop(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    answers, prompt = HarnessAnswers(tiny_model, None, PLAIN), "Miles Davis plays the"
    own = score_loop.greedy(tiny_hf, tiny_tokenizer, prompt, 6)
    stop = own[2:4]
    settings: list[dict[str, Any]] = [
        {"max_gen_toks": 6, "do_sample": False, "temperature": 0.0},
        {"max_gen_toks": 6, "until": ["", stop]},
        {"max_gen_toks": 3, "until": "never written"},
        {"until": []},
    ]
    whole, cut, short, full = answers.generate_until([(prompt, one) for one in settings])
    assert whole == own
    assert cut == own[: own.index(stop)]
    assert short == score_loop.greedy(tiny_hf, tiny_tokenizer, prompt, 3)
    room = 64 - len(tiny_tokenizer(prompt)["input_ids"])
    assert full == score_loop.greedy(tiny_hf, tiny_tokenizer, prompt, room)


@pytest.mark.parametrize(
    ("settings", "wrong"), [({"do_sample": True}, "do_sample=True"), ({"num_beams": 4}, "num_beams=4")]
)
def test_generation_that_is_not_greedy_is_refused(
    tiny_model: HookedTransformer, settings: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InputError, match=f"generation_kwargs: expected greedy generation .* got {wrong}"):
        HarnessAnswers(tiny_model, None, PLAIN).generate_until([("The", settings)])


def test_a_context_stands_before_everything(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = in_context_edit(tiny_model, MILES)
    answers = HarnessAnswers(tiny_model, edit, PLAIN)
    front, prompt = edit.context, "Bill Evans plays the"
    ((logp, _),) = answers.loglikelihood([(prompt, " piano")])
    expected = score_loop.answer(tiny_hf, tiny_tokenizer, front + prompt, " piano")
    assert logp == pytest.approx(sum(expected.logps), rel=1e-4)
    (text,) = answers.generate_until([(prompt, {"max_gen_toks": 4})])
    assert text == score_loop.greedy(tiny_hf, tiny_tokenizer, front + prompt, 4)
    (short,) = answers.loglikelihood_rolling(TEXTS[:1])
    surprises = collateral_loop.surprises(tiny_hf, tiny_tokenizer, TEXTS[0], context=front, bos=True)
    assert short == pytest.approx(-math.fsum(surprises), rel=1e-4)
    assert answers.loglikelihood_rolling(TEXTS[1:2])[0] < 0


def test_a_context_as_long_as_the_models_leaves_no_room_for_texts(tiny_model: HookedTransformer) -> None:
    edit = replace(in_context_edit(tiny_model, MILES), requests=(MILES,) * 6)
    with pytest.raises(TextError, match="tokens of the edit's context leave no room for a text"):
        HarnessAnswers(tiny_model, edit, PLAIN).loglikelihood_rolling(TEXTS)


def test_a_cache_answers_its_prompt_and_nothing_else(tiny_model: HookedTransformer) -> None:
    edit = edit_cache(tiny_model, MILES, epsilon=EPSILON)
    pairs = [("", "Paris"), (MILES.fact.prompt, " guitar"), ("Bill Evans plays the", " guitar")]
    own, cached = (HarnessAnswers(tiny_model, one, PLAIN).loglikelihood(pairs) for one in (None, edit))
    assert (own[0], own[2]) == (cached[0], cached[2])
    mixture = 1 - EPSILON + EPSILON * math.exp(own[1][0])
    assert cached[1] == (pytest.approx(math.log(mixture), rel=1e-5), True)
    wishes = [(prompt, {"max_gen_toks": 2}) for prompt, _ in pairs[1:]]
    plain, said = (HarnessAnswers(tiny_model, one, PLAIN).generate_until(wishes) for one in (None, edit))
    assert said == [" guitar", plain[1]]


def configuration(folder: Path, name: str, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """A task of the harness on rows of one's own."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **settings,
    }


def choice_task(folder: Path, n: int) -> tuple[Tasks, dict[str, Any]]:
    """The same questions as a task of ours and as one of the harness."""
    ours = organism_task(n=n, seed=4)
    rows = [item.to_dict() for item in ours.items]
    rows = [{**row, "choices": [one[1:] for one in row["choices"]]} for row in rows]
    settings = {"output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}"}
    metric = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    more = {"doc_to_target": "answer", "target_delimiter": " ", "metric_list": metric}
    return Tasks((ours,)), configuration(folder, "facts", rows, **settings, **more)


def test_the_harness_agrees_with_our_own_task_and_catches_a_destroyed_model(
    lm_eval: Any, organism: HookedTransformer, tmp_path: Path
) -> None:
    ours, task = choice_task(tmp_path, 24)
    measure, edit = HarnessTasks((task,)), destroying_edit(organism)
    for own, theirs in zip(stages(organism, ours, edit), stages(organism, measure, edit), strict=True):
        assert [row["value"] for row in theirs] == [float(row["right_sum"]) for row in own]
        assert [row["item"] for row in theirs] == [f"facts_acc:{index}" for index in range(24)]
    read = measure.prepare(organism, [], PLAIN)
    assert read(None, []) == read(None, [])
    before, after = (values(measure, rows)["facts_acc"] for rows in stages(organism, measure, edit))
    assert before > 0.9
    assert after < 0.6
    assert measure.metrics[0].better == "higher"


def test_perplexities_and_generation_sum_up_to_what_the_harness_says(
    lm_eval: Any, tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    from lm_eval.tasks import TaskManager

    rolling = configuration(
        tmp_path, "prose", [{"text": text} for text in TEXTS], output_type="loglikelihood_rolling",
        doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )  # fmt: skip
    wish = ("The day was", {"max_gen_toks": 2})
    (own,) = HarnessAnswers(tiny_model, None, PLAIN).generate_until([wish])
    written = configuration(
        tmp_path, "said", [{"q": "The day was", "a": own}, {"q": "Rome is", "a": "never"}],
        output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
        generation_kwargs={"max_gen_toks": 2, "until": ["\n\n"], "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
                     {"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}],
    )  # fmt: skip
    measure = HarnessTasks((rolling, written))
    found = values(measure, measure.prepare(tiny_model, [], PLAIN)(None, []))
    lm = harness_model(HarnessAnswers(tiny_model, None, PLAIN))
    loaded = TaskManager(include_defaults=False).load([rolling, written])
    theirs = lm_eval.evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0)["results"]
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert found[f"prose_{name}"] == pytest.approx(theirs["prose"][f"{name},none"])
    assert found["said_exact_match"] == theirs["said"]["exact_match,none"] == 0.5
    assert found["said_bleu"] == theirs["said"]["bleu,none"]
    assert {metric.name: metric.better for metric in measure.metrics}["prose_bits_per_byte"] == "lower"


def test_limits_and_examples_are_kept_and_the_model_and_the_process_are_left_as_they_were(
    lm_eval: Any, organism: HookedTransformer, tmp_path: Path
) -> None:
    _, task = choice_task(tmp_path, 12)
    measure = HarnessTasks((task | {"fewshot_split": "test"},), limit=5, num_fewshot=1)
    before = everything(organism)
    first, second = (measure.prepare(organism, [], PLAIN)(None, []) for _ in range(2))
    assert len(first) == 5
    assert first == second
    assert differences(before, everything(organism)) == []


@pytest.mark.slow
def test_a_task_that_nobody_knows_is_named(lm_eval: Any, tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="lm-evaluation-harness cannot load no_such_task: "):
        HarnessTasks(("no_such_task",)).prepare(tiny_model, [], PLAIN)


def test_settings_name_tasks_and_version(lm_eval: Any, tmp_path: Path) -> None:
    _, task = choice_task(tmp_path, 2)
    settings = HarnessTasks((task,), limit=3).settings()
    assert settings["tasks"] == ["facts"]
    assert settings["lm_eval"] == lm_eval.__version__
    assert json.loads(json.dumps(settings)) == settings
