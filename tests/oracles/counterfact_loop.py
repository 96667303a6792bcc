"""Records scored as ROME's published code scores them, as slowly and plainly as can be.

What it does was read in `kmeng01/rome@0874014`: `eval_utils_counterfact.py` and `eval_utils_zsre.py` in
`experiments/py`, `experiments/summarize.py` and `dsets/zsre.py`; "neighborhood+", which is CounterFact+, in
`apartresearch/specificityplus`. One text at a time on the Hugging Face model, without padding; it takes raw
records and shares no code with `mechstyle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rates = dict[str, float]


def surprise(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, word: str) -> float:
    """Mean of minus log-probability over the tokens of " word", which begin where the prompt's end."""
    text = torch.tensor([tokenizer(f"{prompt} {word}")["input_ids"]])
    begin = len(tokenizer(prompt)["input_ids"])
    own = tokenizer(f" {word}")["input_ids"]
    with torch.no_grad():
        logps = torch.log_softmax(hf(text).logits[0].double(), dim=-1)
    return -sum(float(logps[begin + place - 1, token]) for place, token in enumerate(own)) / len(own)


def counterfact_case(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any]
) -> dict[str, float]:
    """The numbers of one record: success and difference of each kind of prompt, means over its prompts."""
    wish = record["requested_rewrite"]
    new, true = wish["target_new"]["str"], wish["target_true"]["str"]
    kinds = {
        "efficacy": [wish["prompt"].format(wish["subject"])],
        "paraphrase": record["paraphrase_prompts"],
        "neighborhood": record["neighborhood_prompts"],
    }
    sentence = f"{kinds['efficacy'][0]} {new}."
    kinds["neighborhood+"] = [f"{sentence} {prompt}" for prompt in record["neighborhood_prompts"]]
    found = {}
    for kind, prompts in kinds.items():
        successes, differences = [], []
        for prompt in prompts:
            of_new, of_true = (surprise(hf, tokenizer, prompt, word) for word in (new, true))
            if kind.startswith("neighborhood"):
                successes.append(of_true < of_new)
                differences.append(math.exp(-of_true) - math.exp(-of_new))
            else:
                successes.append(of_true > of_new)
                differences.append(math.exp(-of_new) - math.exp(-of_true))
        found[kind] = sum(successes) / len(successes)
        found[f"{kind}_magnitude"] = sum(differences) / len(differences)
    return found


def counterfact_table(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Sequence[Mapping[str, Any]]
) -> Rates:
    """Means over records, and the harmonic mean of the three success rates."""
    cases = [counterfact_case(hf, tokenizer, record) for record in records]
    table = {name: sum(case[name] for case in cases) / len(cases) for name in cases[0]}
    rates = [table[name] for name in ("efficacy", "paraphrase", "neighborhood")]
    table["score"] = 3 / sum(1 / rate for rate in rates) if all(rates) else 0.0
    return table


def right_tokens(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, word: str
) -> list[bool]:
    """Of each token of " word": is it the most probable one behind the prompt and the tokens before it?"""
    own = tokenizer(f" {word}")["input_ids"]
    found = []
    for place in range(len(own)):
        asked = tokenizer(prompt + tokenizer.decode(own[:place]))["input_ids"]
        wanted = tokenizer(tokenizer.decode(own[place]))["input_ids"][0]
        with torch.no_grad():
            found.append(int(hf(torch.tensor([asked])).logits[0, -1].argmax()) == wanted)
    return found


def zsre_table(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Sequence[Mapping[str, Any]]
) -> Rates:
    """Token accuracy of the first true answer on question and rephrasing, and of the unrelated answer."""
    cases = []
    for record in records:
        asked = {
            "efficacy_accuracy": (record["src"], record["answers"][0]),
            "paraphrase_accuracy": (record["rephrase"], record["answers"][0]),
            "neighborhood_accuracy": (record["loc"] + "?", record["loc_ans"]),
        }
        right = {name: right_tokens(hf, tokenizer, *pair) for name, pair in asked.items()}
        cases.append({name: sum(one) / len(one) for name, one in right.items()})
    return {name: sum(case[name] for case in cases) / len(cases) for name in cases[0]}
