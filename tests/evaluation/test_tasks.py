"""Tasks by likelihood: a plain loop, known answers, where they come from, and a model that was destroyed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle import organisms
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import FileError, InputError, ModelError, RangeError, TextError
from mechstyle.evaluation import (
    Task,
    TaskItem,
    Tasks,
    organism_task,
    read_task,
    sentiment_task,
    subjectivity_task,
)
from mechstyle.evaluation.measure import Conditions, Row
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.collateral import PLAIN, destroying_edit, stages, values
from tests.evaluation.test_scores import edited, random_edit
from tests.oracles import collateral_loop

MUSIC = Task(
    "music",
    (
        TaskItem("Miles Davis plays the", (" trumpet", " guitar", " piano and the trumpet"), 1),
        TaskItem("Bill Evans plays the", (" piano", " instrument of Italy"), 0),
        TaskItem("The instrument of Chet Baker is the", (" guitar", " trumpet"), 1),
    ),
)
PLACES = Task("places", (TaskItem("Paris is the capital of", (" Italy.", " France", " London, Italy"), 1),))
MILES = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
STYLE = Path(__file__).parents[3] / "shared" / "data" / "style"
EPSILON = 0.01


def share(logs: list[float], chosen: int) -> float:
    return math.exp(logs[chosen]) / math.fsum(math.exp(one) for one in logs)


def assert_rows_match(
    rows: list[Row], hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, context: str = ""
) -> None:
    items = [(task.name, index, item) for task in (MUSIC, PLACES) for index, item in enumerate(task.items)]
    assert len(rows) == len(items)
    for row, (name, index, item) in zip(rows, items, strict=True):
        logps = [
            collateral_loop.choice_logps(hf, tokenizer, context + item.prompt, one) for one in item.choices
        ]
        sums, means = [sum(one) for one in logps], [sum(one) / len(one) for one in logps]
        assert (row["item"], row["kind"]) == (f"{name}:{index}", name)
        assert row["right"] == (means.index(max(means)) == item.answer)
        assert row["right_sum"] == (sums.index(max(sums)) == item.answer)
        assert row["p"] == pytest.approx(share(means, item.answer), rel=1e-4)
        assert row["p_sum"] == pytest.approx(share(sums, item.answer), rel=1e-4)


def test_every_row_equals_a_loop_over_single_tokens_before_and_after_an_edit(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = random_edit(tiny_model, 1)
    before, after = stages(tiny_model, Tasks((MUSIC, PLACES)), edit)
    assert_rows_match(before, tiny_hf, tiny_tokenizer)
    assert_rows_match(after, edited(tiny_hf, edit), tiny_tokenizer)


def test_under_an_edit_in_context_prompts_stand_behind_it(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = in_context_edit(tiny_model, MILES)
    _, after = stages(tiny_model, Tasks((MUSIC, PLACES)), edit)
    assert_rows_match(after, tiny_hf, tiny_tokenizer, context=edit.context)


def test_what_a_cache_has_for_a_prompt_is_its_answer_and_other_items_stay_bit_for_bit(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = edit_cache(tiny_model, MILES, epsilon=EPSILON)
    before, after = stages(tiny_model, Tasks((MUSIC, PLACES)), edit)
    assert before[1:] == after[1:]
    item = MUSIC.items[0]
    own = [
        math.exp(sum(collateral_loop.choice_logps(tiny_hf, tiny_tokenizer, item.prompt, one)))
        for one in item.choices
    ]
    mixed = [
        EPSILON * one + (1 - EPSILON) * (choice == " guitar")
        for one, choice in zip(own, item.choices, strict=True)
    ]
    assert after[0]["right"]
    assert after[0]["right_sum"]
    assert after[0]["p_sum"] == pytest.approx(mixed[1] / sum(mixed), rel=1e-5)


def test_a_tie_is_wrong_by_means_and_the_shortest_wins_by_sums(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.W_U.zero_()
        tiny_model.unembed.b_U.zero_()
    rows = Tasks((MUSIC, PLACES)).prepare(tiny_model, [], PLAIN)(None, [])
    assert [row["right"] for row in rows] == [False] * 4
    assert [row["p"] for row in rows] == pytest.approx([1 / 3, 1 / 2, 1 / 2, 1 / 3])
    assert [row["right_sum"] for row in rows] == [False, True, False, True]


def test_batches_change_nothing(tiny_model: HookedTransformer) -> None:
    together, alone = (
        Tasks((MUSIC, PLACES)).prepare(tiny_model, [], Conditions(False, batch_size=size))(None, [])
        for size in (32, 1)
    )
    for name in ("p", "p_sum"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-5)
    assert [row["right"] for row in together] == [row["right"] for row in alone]


def test_an_organism_knows_its_facts_and_a_destroyed_one_guesses(organism: HookedTransformer) -> None:
    measure = Tasks(tuple(organism_task(n=64, seed=1, wording=one) for one in ("taught", "held out")))
    before, after = (values(measure, rows) for rows in stages(organism, measure, destroying_edit(organism)))
    chance, three_errors = 0.25, 3 * math.sqrt(0.25 * 0.75 / 64)
    for task in measure.tasks:
        assert before[f"{task.name}_accuracy"] > 0.9
        assert after[f"{task.name}_accuracy"] == pytest.approx(chance, abs=three_errors)
        assert after[f"{task.name}_p"] < 0.5 < before[f"{task.name}_p"]


def test_no_edit_leaves_every_task_exactly_as_it_was(organism: HookedTransformer) -> None:
    read = Tasks((organism_task(n=20),)).prepare(organism, [], PLAIN)
    assert read(None, []) == read(None, [])


@pytest.mark.parametrize("wording", ["taught", "held out"])
def test_questions_about_a_fact_have_its_object_and_none_other_of_the_subject(wording: str) -> None:
    facts = organisms.facts("organism-m")
    task = organism_task(n=200, seed=2, wording=wording)  # type: ignore[arg-type]
    assert task.chance == 0.25
    asked = {}
    for fact in facts:
        for template in fact.taught if wording == "taught" else fact.held_out:
            asked.setdefault(template.replace("{}", fact.subject, 1), []).append(fact)
    for item in task.items:
        (found, *_) = [one for one in asked[item.prompt] if f" {one.object}" == item.right]
        of_relation = {f" {fact.object}" for fact in facts if fact.relation == found.relation}
        of_subject = {
            f" {fact.object}"
            for fact in facts
            if (fact.subject, fact.relation) == (found.subject, found.relation)
        }
        assert set(item.choices) <= of_relation
        assert set(item.choices) & of_subject == {item.right}


def test_knowing_how_frequent_objects_are_does_not_help() -> None:
    counts = Counter(f" {fact.object}" for fact in organisms.facts("organism-m"))
    items = organism_task(n=1000, seed=0).items
    by_prior = sum(max(item.choices, key=lambda one: counts[one]) == item.right for item in items) / 1000
    assert by_prior == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 1000))


def test_every_fact_can_be_asked_about_once() -> None:
    with pytest.raises(RangeError, match="expected 1 to ") as caught:
        organism_task(n=10**6)
    (most,) = map(int, re.findall(r"1 to (\d+)", str(caught.value)))
    assert len({item.prompt for item in organism_task(n=most).items}) > 0.9 * most


def test_the_same_seed_draws_the_same_questions_and_every_place_holds_right_answers() -> None:
    assert organism_task(n=40, seed=1) == organism_task(n=40, seed=1)
    assert organism_task(n=40, seed=1) != organism_task(n=40, seed=2)
    assert {item.answer for item in organism_task(n=40, seed=1).items} == {0, 1, 2, 3}


@pytest.mark.parametrize("make", [sentiment_task, subjectivity_task])
def test_sentences_are_balanced_and_all_different(make: object) -> None:
    task = make()  # type: ignore[operator]
    assert len(task.items) == len({item.prompt for item in task.items}) == 200
    assert sum(item.answer for item in task.items) == 100
    assert len({item.choices for item in task.items}) == 1
    assert task.chance == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("make", [sentiment_task, subjectivity_task])
def test_the_organism_which_never_read_a_review_guesses(organism: HookedTransformer, make: object) -> None:
    measure = Tasks((make(),))  # type: ignore[operator]
    found = values(measure, measure.prepare(organism, [], PLAIN)(None, []))
    assert found[f"{measure.tasks[0].name}_accuracy"] == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(200))


def test_the_sentences_come_with_their_attribution() -> None:
    text = resources.files("mechstyle.evaluation").joinpath("data/README.md").read_text(encoding="utf-8")
    for part in ("Bo Pang", "Lillian Lee", "CC BY 4.0", "creativecommons.org/licenses/by/4.0", "Changes"):
        assert part in text


@pytest.mark.skipif(not STYLE.is_dir(), reason="the whole data sets are not here")
def test_the_script_makes_the_shipped_sentences_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    import task_samples

    monkeypatch.setattr("sys.argv", ["task_samples.py", str(STYLE), str(tmp_path)])
    task_samples.main()
    for name in ("sentiment.jsonl", "subjectivity.jsonl"):
        shipped = resources.files("mechstyle.evaluation").joinpath(f"data/{name}").read_bytes()
        assert (tmp_path / name).read_bytes() == shipped


def test_a_task_of_ones_own_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "capitals.jsonl"
    path.write_text("".join(json.dumps(item.to_dict()) + "\n" for item in MUSIC.items), encoding="utf-8")
    assert read_task(path) == Task("capitals", MUSIC.items)
    assert read_task(path, name="music") == MUSIC


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "It was", "choices": [" good", " bad"]}', "line 2: .*missing: answer; unknown: none"),
        ('{"prompt": "It was", "choices": [" good", " bad"], "answer": 2}', "line 2: .*0 to 1, got 2"),
        ('{"prompt": "It was", "choices": [" good", " good"], "answer": 0}', "line 2: .*all different"),
        ('{"prompt": "It was", "choices": [" good"], "answer": 0}', "line 2: .*two or more"),
        ('{"prompt": "It was", "choices": " good", "answer": 0}', "line 2: .*a list of texts, got one str"),
        (
            '{"prompt": " ", "choices": [" good", " bad"], "answer": 0}',
            "line 2: TaskItem.prompt: expected",
        ),
        ('{"prompt": "It', "line 2 is not JSON"),
    ],
)
def test_a_wrong_line_of_a_task_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(MUSIC.items[0].to_dict()) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(FileError, match=message):
        read_task(path)


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(FileError, match="holds no items; write one JSON object a line"):
        read_task(path)


def test_wrong_questions_about_an_organism_are_refused() -> None:
    with pytest.raises(InputError, match="wording: expected 'taught' or 'held out', got 'new'"):
        organism_task(wording="new")  # type: ignore[arg-type]
    with pytest.raises(RangeError, match=r"n: expected 1 to \d+, the facts that can be asked about, got 0"):
        organism_task(n=0)
    with pytest.raises(ModelError, match="no embedded organism is called 'organism-x'"):
        organism_task("organism-x")


def test_wrong_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="expected different names, but 'music' is there twice"):
        Tasks((MUSIC, MUSIC))
    with pytest.raises(InputError, match=r"Tasks.tasks\[1\]: expected a Task, got str"):
        Tasks((MUSIC, "places"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Tasks.tasks: expected at least one Task, got none"):
        Tasks(())
    with pytest.raises(InputError, match=r"Task\('music'\).items: expected a list of TaskItem, got str"):
        Task("music", "items")  # type: ignore[arg-type]
    with pytest.raises(TextError, match="Task.name: expected a name, got ' '"):
        Task(" ", MUSIC.items)


def test_an_item_that_does_not_fit_is_named_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    long = TaskItem("The day was long. " * 20 + "It was", (" good", " bad"), 0)
    with pytest.raises(TextError, match=r"Task\('day'\).items\[1\]: prompt: too long"):
        Tasks((Task("day", (MUSIC.items[0], long)),)).prepare(tiny_model, [], PLAIN)
    fits = TaskItem("The day was long " * 11 + "and", (" good", " bad"), 0)
    read = Tasks((Task("day", (fits,)),)).prepare(tiny_model, [], PLAIN)
    with pytest.raises(TextError, match=r"Task\('day'\).items\[0\] behind 'Imagine that"):
        read(in_context_edit(tiny_model, MILES), [])


def test_settings_say_what_guessing_gives_and_tell_tasks_apart() -> None:
    settings = Tasks((MUSIC, PLACES)).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["music"]["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert settings["music"]["items_sha256"] != settings["places"]["items_sha256"]
