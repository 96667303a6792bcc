"""Token spans and roles, against a search by brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.tokens import ROLES, EncodedPrompt, encode, encode_fact, find_subject, pad

FACT = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
WORDS = st.sampled_from(
    [
        "Miles",
        "Davis",
        "plays",
        "the",
        "Zürich",
        "Ивё",
        "東京",
        "é",
        "😀",
        "👩🏽",
        "x1",
        "O'Neil",
        "J.",
        "naïve",
    ]
)


@pytest.fixture(scope="module")
def model(_loaded_tiny: HookedTransformer) -> HookedTransformer:
    return _loaded_tiny


def brute_force_span(model: HookedTransformer, encoded: EncodedPrompt, start: int, end: int) -> list[int]:
    """Tokens whose bytes, decoded one after the other, hold a byte of the subject."""
    first, last = len(encoded.text[:start].encode()), len(encoded.text[:end].encode())
    found, reached = [], 0
    from_bytes = {piece: byte for byte, piece in _bytes_to_pieces().items()}
    for index, piece in enumerate(model.tokenizer.convert_ids_to_tokens(encoded.ids.tolist())):
        if encoded.prepend_bos and index == 0:
            continue
        length = len([from_bytes[character] for character in piece])
        if reached < last and reached + length > first:
            found.append(index)
        reached += length
    assert reached == len(encoded.text.encode())
    return found


def _bytes_to_pieces() -> dict[int, str]:
    """The byte-level alphabet of GPT-2: printable Latin-1 bytes are themselves, others shifted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(WORDS, max_size=2),
    subject=st.lists(WORDS, min_size=1, max_size=2),
    after=st.lists(WORDS, max_size=1),
    trailing=st.sampled_from(["", " ", "  "]),
    target=st.sampled_from(["", " trumpet", " Zürich 東京"]),
    bos=st.booleans(),
    side=st.sampled_from(["left", "right"]),
)
def test_the_subject_span_is_what_a_search_over_bytes_finds(
    model: HookedTransformer,
    before: list[str],
    subject: list[str],
    after: list[str],
    trailing: str,
    target: str,
    bos: bool,
    side: str,
) -> None:
    template = " ".join([*before, "{}", *after]) + (trailing if not target else "")
    fact = Fact(template=template, subject=" ".join(subject), target=target or " x")
    start, end = fact.subject_offsets
    encoded = encode_fact(model, fact, target=target, prepend_bos=bos)
    assert encoded.subject is not None
    assert list(encoded.subject) == brute_force_span(model, encoded, start, end)
    assert model.tokenizer.decode(encoded.ids[int(bos) :]) == encoded.text
    assert model.tokenizer.decode(encoded.target_ids) == target
    assert (
        model.tokenizer.decode(encoded.ids[encoded.subject.start : encoded.subject.stop]).strip()
        == fact.subject
    )

    other = encode(model, "Rome is the capital of Italy. " * 3, prepend_bos=bos)
    batch = pad([encoded, other], pad_id=0, side=side)
    for row, one in enumerate((encoded, other)):
        at = batch.shift[row]
        assert torch.equal(batch.ids[row, at : at + len(one)], one.ids)
        assert batch.attention_mask[row].sum() == len(one)
        assert bool(batch.attention_mask[row, at : at + len(one)].all())
    in_row = [int(batch.shift[0]) + index for index in encoded.subject]
    assert torch.equal(batch.ids[0, in_row], encoded.ids[encoded.subject.start : encoded.subject.stop])


PRINTABLE = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=20
)


@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1, max_size=12), subject=st.text(min_size=1, max_size=2))
def test_find_subject_finds_exactly_the_only_occurrence(text: str, subject: str) -> None:
    starts = [at for at in range(len(text)) if text[at : at + len(subject)] == subject]
    assume(subject.strip())
    if len(starts) == 1:
        assert find_subject(text, subject) == (starts[0], starts[0] + len(subject))
    else:
        with pytest.raises(TextError):
            find_subject(text, subject)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=PRINTABLE.filter(str.strip), bos=st.booleans())
def test_any_text_is_encoded_whole_or_refused(model: HookedTransformer, text: str, bos: bool) -> None:
    assume("<|" not in text)
    encoded = encode(model, text, prepend_bos=bos)
    assert model.tokenizer.decode(encoded.ids[int(bos) :]) == text
    assert encoded.n_prompt == len(encoded) == len(encoded.strings) == len(encoded.offsets)


@pytest.mark.parametrize(
    ("template", "subject", "words"),
    [
        ("{} plays the", "Miles Davis", ["Miles", " Davis"]),
        ("The instrument of {} is the", "Miles Davis", [" Miles", " Davis"]),
        ("The day was long. {}", "Zürich", None),
    ],
)
def test_subjects_are_found_at_the_start_inside_and_at_the_end(
    model: HookedTransformer, template: str, subject: str, words: list[str] | None
) -> None:
    encoded = encode_fact(model, Fact(template, subject, " x"), target="")
    assert encoded.subject is not None
    joined = model.tokenizer.decode(encoded.ids[encoded.subject.start : encoded.subject.stop])
    assert joined.strip() == subject
    if words is not None:
        assert [encoded.strings[index] for index in encoded.subject] == words


def test_roles_name_every_prompt_token(model: HookedTransformer) -> None:
    encoded = encode(
        model,
        "The instrument of Miles Davis is the",
        target=" trumpet",
        subject="Miles Davis",
        prepend_bos=True,
    )
    assert encoded.subject is not None
    first, last = encoded.subject[0], encoded.subject[-1]
    expected = ["bos", *["before subject"] * (first - 1), "first subject token"]
    expected += ["middle subject tokens"] * (last - first - 1) + [
        "last subject token",
        "first subsequent token",
    ]
    expected += ["further tokens"] * (encoded.n_prompt - last - 3) + ["last prompt token"]
    assert list(encoded.roles) == expected
    assert set(encoded.roles) <= set(ROLES)
    assert encoded.strings[0] == "<|endoftext|>"


def test_a_one_token_subject_is_the_last_subject_token_also_at_the_end(model: HookedTransformer) -> None:
    assert encode(model, "He is in Paris", subject="Paris").roles[-1] == "last subject token"
    assert encode(model, "Paris", subject="Paris").roles == ("last subject token",)


def test_the_last_prompt_token_wins_over_the_first_subsequent_one(model: HookedTransformer) -> None:
    assert encode(model, "Miles Davis plays", subject="Miles Davis").roles[-1] == "last prompt token"


def test_a_prompt_without_a_subject_has_no_subject_roles(model: HookedTransformer) -> None:
    roles = encode(model, "Paris is the capital").roles
    assert set(roles) == {"further tokens", "last prompt token"}


def test_the_facts_own_braces_say_which_occurrence_is_the_subject(model: HookedTransformer) -> None:
    fact = Fact(template="Paris is not {}, says", subject="Paris", target=" he")
    encoded = encode_fact(model, fact)
    assert encoded.subject is not None
    assert encoded.subject == encode(model, fact.prompt, subject="Paris", occurrence=1).subject
    assert encoded.subject != encode(model, fact.prompt, subject="Paris", occurrence=0).subject


def test_a_context_moves_the_subject_with_the_prompt(model: HookedTransformer) -> None:
    encoded = encode_fact(model, FACT, template="The day was long. {}")
    assert encoded.text == "The day was long. Miles Davis plays the trumpet"
    assert encoded.subject is not None
    assert [encoded.strings[index] for index in encoded.subject] == [" Miles", " Davis"]


def test_a_context_needs_exactly_one_pair_of_braces(model: HookedTransformer) -> None:
    for context in ("no braces", "{} and {}"):
        with pytest.raises(TextError, match=r"template: expected exactly one \{\}"):
            encode_fact(model, FACT, template=context)


def test_trimmed_offsets_give_the_same_tokens(
    model: HookedTransformer, tiny_model: HookedTransformer
) -> None:
    tiny_model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    for text in ("The instrument of Miles Davis is the", "a  b   Miles Davis  plays"):
        trimmed, plain = (encode(one, text, subject="Miles Davis") for one in (tiny_model, model))
        assert trimmed.offsets == plain.offsets
        assert trimmed.subject == plain.subject


def test_a_trailing_space_of_the_prompt_may_go_into_the_target(model: HookedTransformer) -> None:
    encoded = encode(model, "Miles Davis plays the ", target="trumpet", subject="Miles Davis")
    assert model.tokenizer.decode(encoded.target_ids) == " trumpet"
    assert encoded.strings[encoded.n_prompt - 1] == " the"
    assert encode(model, "Miles Davis plays the ").strings[-1] == " "


def test_a_token_across_the_target_border_is_refused(model: HookedTransformer) -> None:
    with pytest.raises(TextError, match=r"target: the token ' trumpet' straddles the border"):
        encode(model, "Miles Davis plays the trum", target="pet")


def test_a_token_across_the_subject_border_is_refused(model: HookedTransformer) -> None:
    with pytest.raises(TextError, match=r"subject: the token ' trumpet' straddles .* holds 'trum'"):
        encode(model, "Miles Davis plays the trumpet", subject="pet")


def test_too_long_a_text_is_refused_with_its_token_counts(model: HookedTransformer) -> None:
    with pytest.raises(
        TextError, match=r"too long, 71 tokens \(70 for the prompt and 1 for the target\) .* 64"
    ):
        encode(model, "the" + " the" * 69, target=" the")


@pytest.mark.parametrize("prompt", ["", "   ", "\n"])
def test_an_empty_prompt_is_refused(model: HookedTransformer, prompt: str) -> None:
    with pytest.raises(TextError, match="prompt: expected text"):
        encode(model, prompt)


def test_subjects_that_are_absent_or_ambiguous_or_empty_are_refused(model: HookedTransformer) -> None:
    with pytest.raises(TextError, match="'Chet Baker' does not occur in the prompt"):
        encode(model, "Miles Davis plays the", subject="Chet Baker")
    with pytest.raises(TextError, match=r"occurs 2 times .* occurrence=0 to 1"):
        encode(model, "Paris, Paris", subject="Paris")
    with pytest.raises(TextError, match="subject: expected text"):
        encode(model, "Paris", subject=" ")
    with pytest.raises(RangeError, match=r"occurrence: expected 0 to 1 .* got 2"):
        encode(model, "Paris, Paris", subject="Paris", occurrence=2)


def test_subject_offsets_are_checked(model: HookedTransformer) -> None:
    with pytest.raises(TextError, match=r"subject_offsets: expected 0 <= start < end <= 5"):
        encode(model, "Paris", subject_offsets=(3, 9))
    with pytest.raises(TextError, match=r"holds 'Par', but subject is 'Paris'"):
        encode(model, "Paris", subject="Paris", subject_offsets=(0, 3))


def test_a_tokenizer_without_offsets_or_bos_is_refused(tiny_model: HookedTransformer) -> None:
    tiny_model.tokenizer.bos_token = None
    with pytest.raises(ModelError, match="BOS"):
        encode(tiny_model, "Paris", prepend_bos=True)
    tiny_model.tokenizer = None
    with pytest.raises(ModelError, match="expected a fast tokenizer"):
        encode(tiny_model, "Paris", prepend_bos=False)


def test_padding_refuses_nothing_and_unknown_sides(model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="at least one encoded prompt"):
        pad([], pad_id=0)
    with pytest.raises(InputError, match="'left' or 'right', got 'top'"):
        pad([encode(model, "Paris")], pad_id=0, side="top")
