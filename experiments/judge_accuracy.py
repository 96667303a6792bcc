"""Measures the judges that come with the library, as a Markdown table for the docs.

    python experiments/judge_accuracy.py ../shared/data/style

It needs the corpora of Pang and Lee and the two translations of Genesis; it takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mechstyle.evaluation import Accuracy, ClassifierJudge, TargetJudge
from mechstyle.evaluation.judging.rule_judge import labelled_targets

PASSAGES = 40
"""Each translation is cut into so many parts of the same length; both versions of a part are one group."""
PAIRS = {
    "sentiment (sentence polarity)": {
        "negative": "sentence_polarity/rt-polarity.neg",
        "positive": "sentence_polarity/rt-polarity.pos",
    },
    "subjectivity": {
        "objective": "subjectivity/plot.tok.gt9.5000",
        "subjective": "subjectivity/quote.tok.gt9.5000",
    },
}


def lines(path: Path) -> list[str]:
    """The sentences of a file that has one in each line."""
    return [line.strip() for line in path.read_text(encoding="latin-1").splitlines() if line.strip()]


def sentences(path: Path) -> list[str]:
    """The sentences of running text."""
    text = " ".join(path.read_text(encoding="latin-1").split())
    return [one for one in re.split(r"(?<=[.?!])[\"']?\s+", text) if one.strip()]


def corpora(source: Path) -> dict[str, Accuracy | None]:
    """The classifier's accuracy on each corpus, by five-fold cross-validation."""
    found = {}
    for name, files in PAIRS.items():
        parts = {label: lines(source / file) for label, file in files.items()}
        texts = [text for part in parts.values() for text in part]
        labels = [label for label, part in parts.items() for _ in part]
        found[name] = ClassifierJudge.fit(texts, labels, seed=0).accuracy
    both = {name: sentences(source / "genesis" / f"english-{name}.txt") for name in ("kjv", "web")}
    found["King James version and World English Bible"] = ClassifierJudge.fit(
        [text for part in both.values() for text in part],
        [name for name, part in both.items() for _ in part],
        seed=0,
        groups=[PASSAGES * index // len(part) for part in both.values() for index in range(len(part))],
    ).accuracy
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", type=Path, help="folder with sentence_polarity/, subjectivity/ and genesis/"
    )
    found = corpora(parser.parse_args().source)
    for where in ("start", "anywhere"):
        found[f"TargetJudge({where!r})"] = TargetJudge(where).measured_on(*labelled_targets()).accuracy
    print("| what is told apart | texts | accuracy | most frequent label |\n|---|---|---|---|")
    for name, accuracy in found.items():
        if accuracy is not None:
            value, low, high, n = accuracy.share
            print(f"| {name} | {n} | {value:.1%} [{low:.1%}, {high:.1%}] | {accuracy.baseline:.1%} |")


if __name__ == "__main__":
    main()
