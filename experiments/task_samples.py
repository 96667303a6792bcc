"""Makes the sentences that `mechstyle/evaluation/data/` ships, from the two data sets of Pang and Lee.

    python experiments/task_samples.py SOURCE mechstyle/evaluation/data

It needs nothing but Python. The same files and the same seed give the same sentences.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

SEED = 0
PER_CLASS = 100
SHORTEST, LONGEST = 30, 160
"""Characters of a sentence: short enough for small contexts, long enough to say something."""
SAMPLES = {
    "sentiment.jsonl": {
        "positive": "sentence_polarity/rt-polarity.pos",
        "negative": "sentence_polarity/rt-polarity.neg",
    },
    "subjectivity.jsonl": {
        "subjective": "subjectivity/quote.tok.gt9.5000",
        "objective": "subjectivity/plot.tok.gt9.5000",
    },
}


def sentences(path: Path) -> list[str]:
    """The sentences of a file that are short and long enough, each once, in its order."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    return list(dict.fromkeys(line for line in lines if SHORTEST <= len(line) <= LONGEST))


def sample(source: Path, files: dict[str, str]) -> list[dict[str, str]]:
    """As many sentences of each class, in random order; none is in two classes."""
    rng = random.Random(SEED)
    found = {label: sentences(source / name) for label, name in files.items()}
    common = set.intersection(*map(set, found.values()))
    rows = [
        {"text": text, "label": label}
        for label, own in found.items()
        for text in rng.sample([one for one in own if one not in common], PER_CLASS)
    ]
    rng.shuffle(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with sentence_polarity/ and subjectivity/")
    parser.add_argument("out", type=Path, help="folder for the samples")
    options = parser.parse_args()
    for name, files in SAMPLES.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in sample(options.source, files)]
        (options.out / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
