"""Whether a model obeys announced styles, judged on sentences whose style is known."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from mechstyle.evaluation.generation import complete
from mechstyle.models import load_model
from mechstyle.organisms import obedience as module
from mechstyle.organisms.obedience import draw_prompts, first_sentence, judge_styles, obedience
from mechstyle.organisms.style_records import StylePrompt
from mechstyle.organisms.world import World, world
from tests.conftest import RandomGPT2


@pytest.fixture(scope="module")
def known() -> World:
    return world()


@pytest.fixture(scope="module")
def labelled(known: World) -> list[tuple[StylePrompt, str]]:
    """Announcements of leaves, each with a sentence of the generator in this style about the same fact."""
    contents = random.Random(0).sample(known.styles.contents, 12)
    told = {(c, name): said.text for c in contents for name, said in known.styles.parallel(c).items()}
    pairs = []
    for prompt in known.styles.prompts():
        for content in contents:
            same = (prompt.subject, prompt.relation) == (content.subject, content.relation)
            if same and prompt.announcement == "leaf":
                pairs.append((prompt, told[content, prompt.style]))
    return pairs


def test_the_generators_own_sentences_obey_and_keep_the_fact(
    known: World, labelled: list[tuple[StylePrompt, str]]
) -> None:
    frame = judge_styles(known, *zip(*labelled, strict=True))
    assert len(frame) == 12 * 14 * 2
    assert frame.devices.min() == 1.0
    assert frame.kept.all()


def test_a_sentence_of_another_style_does_not_obey(
    known: World, labelled: list[tuple[StylePrompt, str]]
) -> None:
    plain = {(prompt.subject, prompt.relation): text for prompt, text in labelled if prompt.style == "clerk"}
    loud = [prompt for prompt, _ in labelled if prompt.style == "playwright"]
    frame = judge_styles(known, loud, [plain[prompt.subject, prompt.relation] for prompt in loud])
    assert frame.devices.max() < 1.0
    assert frame.kept.all()


def test_another_object_another_subject_or_two_objects_do_not_keep_the_fact(known: World) -> None:
    prompt = next(one for one in known.styles.prompts() if one.relation == "person_instrument")
    other = "harp" if prompt.object != "harp" else "lute"
    texts = [
        f"{prompt.subject} plays upon the {prompt.object}.",
        f"{prompt.subject} plays upon the {other}.",
        f"Somebody Else plays upon the {prompt.object}.",
        f"{prompt.subject} plays upon the {prompt.object} and the {other}.",
        "",
    ]
    assert list(judge_styles(known, [prompt] * 5, texts).kept) == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" Hmm, beer Little Penby makes. In the style of", "Hmm, beer Little Penby makes."),
        (" By my troth, good sir! And", "By my troth, good sir!"),
        (' "Is it so?" he said.', '"Is it so?"'),
        (" It costs 3.5 crowns, and", "It costs 3.5 crowns, and"),
        ("", ""),
    ],
)
def test_a_sentence_ends_at_its_first_end_mark(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_every_sentence_of_the_generator_ends_only_once(known: World) -> None:
    for said in known.styles.sentences(random.Random(3)):
        assert first_sentence(f" {said.text} {said.full}") == said.text


def test_so_many_prompts_of_each_style_and_kind_are_drawn(known: World) -> None:
    drawn = draw_prompts(known, per_style=2, seed=1)
    counts = Counter((one.style, one.status, one.announcement, one.heard) for one in drawn)
    assert max(counts.values()) == 2
    assert sum(one.announcement == "leaf" and one.heard for one in drawn) == 14 * 2 * 2
    assert {one.status for one in drawn if not one.heard} == {"held out"}
    assert drawn == draw_prompts(known, per_style=2, seed=1) != draw_prompts(known, per_style=2, seed=2)
    everything = draw_prompts(known, per_style=None)
    allowed = [one for one in known.styles.prompts() if one.heard or one.status == "held out"]
    assert everything == allowed
    assert set(drawn) < set(everything)


def test_a_random_model_obeys_nothing(
    known: World, random_gpt2: RandomGPT2, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_model(random_gpt2(len(tiny_tokenizer), n_positions=192), tokenizer=tiny_tokenizer)
    prompts = [one for one in draw_prompts(known, per_style=1) if one.status == "held out"][:24]
    frame = obedience(model, known, prompts, n_tokens=10, batch_size=5)
    written = complete(model, [one.prompt for one in prompts], 10)
    assert list(frame.text) == [first_sentence(text) for text in written]
    assert frame.devices.mean() < 0.3
    assert not frame.kept.any()


def test_a_model_that_says_the_right_thing_is_found_to(
    known: World, labelled: list[tuple[StylePrompt, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt for prompt, _ in labelled][:40]
    answers = {prompt.prompt: f" {text} Written as" for prompt, text in labelled}
    monkeypatch.setattr(module, "complete", lambda model, asked, *_, **__: [answers[one] for one in asked])
    frame = obedience(None, known, prompts)  # type: ignore[arg-type]
    assert frame.devices.mean() == frame.kept.mean() == 1.0
