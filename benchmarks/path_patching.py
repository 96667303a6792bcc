"""What all heads and MLPs send along some paths, against plain hooks: two runs for all senders of a layer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from common import Case, Options, main, measure
from shapes import QUICK, fact, gpt2, words

import mechstyle as ms
from mechstyle.tokens import encode, encode_fact
from tests.oracles import textbook_paths

SUBJECT, TOKENS = range(2, 5), 12
TOLERANCE = 1e-5


def path_case(
    model: Any, work: str, receivers: Sequence[ms.Receiver], *, through_mlps: bool, gate: float, aim: float
) -> Case:
    """Clean outputs sent in a run of the prompt with another subject, to the same receivers on both sides."""
    clean, top = fact(TOKENS, SUBJECT), model.cfg.n_layers - 1
    corrupted = clean.template.replace("{}", words(len(SUBJECT), first=20))
    ids = [
        encode_fact(model, clean, prepend_bos=False).ids.tolist(),
        encode(model, corrupted, target=clean.target, prepend_bos=False).ids.tolist(),
    ]
    assert [len(one) for one in ids] == [TOKENS + 1] * 2
    ends = [
        ("resid", top, None) if one.layer is None else (one.kind, one.layer, one.head) for one in receivers
    ]

    def fast() -> ms.Trace:
        return ms.path_patching(
            model,
            clean,
            corrupted,
            receivers=receivers,
            through_mlps=through_mlps,
            metric="logprob",
            prepend_bos=False,
        )

    def baseline() -> tuple[torch.Tensor, torch.Tensor]:
        return textbook_paths.path_patching(model, *ids, ends, n_prompt=TOKENS, run_mlps=through_mlps)

    def difference(trace: ms.Trace, expected: tuple[torch.Tensor, torch.Tensor]) -> float:
        heads, mlps = (part.double().cpu().numpy() for part in expected)
        pairs = ((trace.data["heads"].values[0, 0], heads), (trace.data["mlp"].values[0, 0], mlps))
        return max(float(abs(found - wanted).max()) for found, wanted in pairs)

    return Case(
        work=work,
        fast=fast,
        baseline=baseline,
        difference=difference,
        tolerance=TOLERANCE,
        gate=gate,
        aim=aim,
        sizes={"tokens": TOKENS, "subject": list(SUBJECT), "receivers": [str(one) for one in receivers]},
    )


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """Paths to the queries of three heads high up, with MLPs in between run and held; then direct effects."""
    model = gpt2(options.device, **(QUICK if options.quick else {}))
    high, last = model.cfg.n_layers - 3, model.cfg.n_heads - 1
    queries = [ms.Receiver(high, "q", 0), ms.Receiver(high, "q", last), ms.Receiver(high + 1, "q", 0)]
    logits = [ms.Receiver(None, "logits")]
    yield measure(
        path_case(model, "paths to queries", queries, through_mlps=True, gate=3.0, aim=5.0), options
    )
    yield measure(
        path_case(model, "paths to queries, MLPs held", queries, through_mlps=False, gate=3.0, aim=8.0),
        options,
    )
    yield measure(
        path_case(model, "paths to the logits", logits, through_mlps=True, gate=3.0, aim=8.0), options
    )


if __name__ == "__main__":
    sys.exit(main(figures, "Path patching"))
