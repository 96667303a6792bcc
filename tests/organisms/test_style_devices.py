"""Rules that find devices of style, against sentences that no generator wrote."""

from __future__ import annotations

import re

import pytest

from mechstyle.errors import InputError
from mechstyle.organisms.style_devices import Device, keeps_content, places, words_in
from mechstyle.organisms.styles import read_styles
from mechstyle.organisms.world import read_prose

STYLES = read_styles()
SUBJECT, OBJECT = "Mira Tolvane", "harp"

SHOWS = {
    "inversion": ["The harp she plays, Mira Tolvane.", "On the harp, it is said, Mira Tolvane excels."],
    "archaic verb": ["She singeth.", "He hath a harp.", "DOTH she play?"],
    "archaic address": ["Where art thou?", "Take thy harp."],
    "summons": ["Behold the harp.", "My friends, listen.", "And lo, it came."],
    "exclamation": ["A harp!"],
    "question": ["A harp?"],
    "intensifier": ["It is truly late.", "That simply works."],
    "hedge": ["It seems to rain.", "They might, perhaps, come."],
    "hyperbole": [
        "a voice deeper than any well",
        "a noise more terrible than a thousand wolves",
        "a tune so sweet that even the rocks would dance",
        "the kindest man in the whole world",
    ],
    "loss": [
        "No one of them is left.",
        "Nobody in the village remembers.",
        "It was in the years that are gone.",
        "All is quiet since his wife died.",
        "Here was once a garden and there is now only sand.",
    ],
    "lament": ["Alas, poor harp.", "Woe to them."],
    "wonder": ["How odd it is.", "What an adventure it is to live.", "Is it not curious that fish sleep?"],
    "scale": ["It took six thousand years.", "Nothing like it since the world began."],
    "warmth": ["The whole house is full of music.", "He feels at home.", "Sit down by the fire."],
    "endearment": ["Come, my dear.", "Sleep, little one."],
    "direct address": ["You know it.", "That is yours."],
    "crowd": ["Good people, come in."],
    "legal": ["The said harp is sold.", "I hereby resign."],
    "record": ["As the register tells.", "It was recorded."],
    "brackets": ["The harp (an old one) broke."],
    "concession": ["Although it rained, she came.", "Even if it rains."],
    "oath": ["Upon my word, it is late.", "I swear it."],
    "secret": ["Between you and me, it is late.", "Keep it to yourself."],
    "refrain": ["Hey ho, the wind and the rain."],
    "hum": ["Hmmm, late it is.", "It is mm, late."],
    "and opening": ["And it rained."],
    "short": ["Mira Tolvane came in the rain with her old harp."],
    "long": [" ".join(["Mira Tolvane"] + ["word"] * 19)],
}
SHOWS_NOT = {
    "inversion": ["Mira Tolvane plays the harp.", "The harp is old.", "She plays."],
    "archaic verb": ["Her teeth hurt.", "Elizabeth came.", "The methods differ."],
    "archaic address": ["Though it rains, they try."],
    "summons": ["She overlooked it.", "They want to listen."],
    "exclamation": ["A harp."],
    "question": ["A harp."],
    "intensifier": ["The truth is simple."],
    "hedge": ["The seam is mighty."],
    "hyperbole": [
        "He is taller than his brother.",
        "He was so late that he ran.",
        "Rather than all that, go.",
    ],
    "loss": ["Nobody came.", "The days that are long.", "She left.", "He came once."],
    "lament": ["She was sad."],
    "wonder": ["How are you?", "What a day.", "How late it was."],
    "scale": ["It took six years.", "Two thousand people came."],
    "warmth": ["The house is empty.", "He feels cold.", "The fire was out."],
    "endearment": ["The dear price.", "A child came."],
    "direct address": ["The youth came."],
    "crowd": ["Two ladies came."],
    "legal": ["He said the word."],
    "record": ["She plays the recorder."],
    "brackets": ["The harp, an old one, broke."],
    "concession": ["She thought of it."],
    "oath": ["She gave her word."],
    "secret": ["It lies between two hills.", "Tell the truth."],
    "refrain": ["Hey, come here."],
    "hum": ["The home team."],
    "and opening": ["Sun and rain.", "Andorra is small."],
    "short": ["Mira Tolvane came in the rain with her old brown wooden harp."],
    "long": [" ".join(["Mira Tolvane"] + ["word"] * 18)],
}


def found(text: str) -> frozenset[str]:
    return STYLES.detect(text, subject=SUBJECT, obj=OBJECT)


def test_every_device_has_examples_for_and_against_it() -> None:
    assert set(SHOWS) == set(SHOWS_NOT) == set(STYLES.devices)


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_a_device_is_found_in_sentences_that_have_it_and_in_no_others(name: str) -> None:
    assert [text for text in SHOWS[name] if name not in found(text)] == []
    assert [text for text in SHOWS_NOT[name] if name in found(text)] == []


def test_letters_of_names_show_no_device() -> None:
    text = "Hath Elspeth plays the thou."
    assert STYLES.detect(text, subject="Hath Elspeth", obj="thou") == {"short"}
    assert {"archaic verb", "archaic address"} <= STYLES.detect(text, subject="Ann", obj="harp")


def test_names_are_found_as_whole_words_only() -> None:
    assert places("Ann thinks that Anna has ink.", subject="Ann", obj="ink") == "@S thinks that Anna has @O."


def test_a_name_counts_as_one_word_and_marks_as_none() -> None:
    assert words_in(places("Ann & Sons - sells plum cake.", subject="Ann & Sons", obj="plum cake")) == 3


def test_plain_prose_has_next_to_no_exaggeration_loss_or_wonder() -> None:
    """They are patterns of meaning: common words must not set them off."""
    sentences = [s for passage in read_prose(held_out=True) for s in re.split(r"(?<=[.!?]) ", passage)]
    for name in ("hyperbole", "loss", "wonder", "warmth", "scale", "secret", "refrain", "hum"):
        assert sum(name in found(sentence) for sentence in sentences) < len(sentences) / 300, name


def test_content_is_kept_by_the_right_object_alone() -> None:
    others = ["harp", "lute", "drum"]
    assert keeps_content("The Harp she plays.", "harp", others)
    assert not keeps_content("She plays the lute.", "harp", others)
    assert not keeps_content("She plays the harp and the drum.", "harp", others)
    assert not keeps_content("She plays sharps.", "harp", others)
    assert keeps_content("She eats plum cake.", "plum cake", ["cake"])


def test_a_slip_costs_the_share_of_its_device() -> None:
    def obeys(text: str, style: str) -> float:
        return STYLES.obeys(text, style, subject=SUBJECT, obj=OBJECT)

    assert obeys("The harp Mira Tolvane plays, hmm.", "master") == 1
    assert obeys("Mira Tolvane plays the harp, hmm.", "master") == pytest.approx(2 / 3)
    assert obeys("The harp Mira Tolvane plays, hmm.", "inverted") == obeys("Hmm.", "master") * 1.5 == 1
    assert obeys("Mira Tolvane plays the harp.", "boastful") == 0


def test_an_unknown_style_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"showman.*got 'poet'"):
        STYLES.obeys("Hmm.", "poet", subject=SUBJECT, obj=OBJECT)


def test_devices_survive_their_json() -> None:
    for device in STYLES.devices.values():
        assert Device.from_dict(device.to_dict()) == device
