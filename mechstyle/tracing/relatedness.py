"""Are facts recalled more easily whose subject and object have related embeddings?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.answers import require_positive, score_answers
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, active_base, provenance, require_hooked
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.embedding_changes import check_facts
from mechstyle.tracing.embedding_removal import object_directions
from mechstyle.weights import parameter_value

__all__ = ["ease_of_recall", "relatedness"]

MEASURES = ("embedding", "last_embedding", "unembedding")


def relatedness(
    model: HookedModel, facts: Sequence[Fact], *, batch_size: int = 32, prepend_bos: bool | None = None
) -> pd.DataFrame:
    """Cosines between a fact's subject and its object in embedding space, and how well the fact is recalled.

    The mean of the table is subtracted from all embeddings, so that unrelated words have a cosine near 0.

    Args:
        batch_size: prompts in one forward pass.

    Returns:
        a row per fact: fact (its number), prompt, target, relation, logprob (nats, of the whole target) and
        exact (whether it is the greedy continuation); the cosine of the object's first token with the mean
        embedding of the subject's tokens (embedding), with its last token alone (last_embedding), and of the
        mean with the object's unembedding direction (unembedding). Beside each, as `..._control`, the mean
        cosine of the same subject with the other objects of the relation among these facts; NaN without any.
        `attrs["provenance"]` says of which model.

    Raises:
        InputError: no facts.
        TextError: a prompt cannot be tokenised.
        RangeError: `batch_size` is below 1.

    Example:
        >>> frame = relatedness(model, facts)
        >>> frame[["embedding", "embedding_control", "logprob"]]
    """
    require_hooked(model)
    check_facts(facts)
    require_positive("batch_size", batch_size)
    encoded = [encode_fact(model, fact, prepend_bos=prepend_bos) for fact in facts]
    objects: dict[str | None, set[int]] = defaultdict(set)
    for fact, one in zip(facts, encoded, strict=True):
        objects[fact.relation].add(int(one.target_ids[0]))
    scored = score_answers(model, encoded, batch_size=batch_size)
    table = parameter_value(model, "embed.W_E").detach()
    mean = table.double().mean(0)
    tokens = sorted(set().union(*objects.values()))
    place = {token: row for row, token in enumerate(tokens)}
    written, read = (object_directions(model, tokens, name).double() for name in ("embedding", "unembedding"))
    rows = []
    for number, (fact, one, score) in enumerate(zip(facts, encoded, scored, strict=True)):
        own = int(one.target_ids[0])
        others = sorted(objects[fact.relation] - {own})
        at = [place[token] for token in (own, *others)]
        whole, last = _subject(table, mean, one)
        cosines = {
            "embedding": written[at] @ whole,
            "last_embedding": written[at] @ last,
            "unembedding": read[at] @ whole,
        }
        rows.append(
            {
                "fact": number, "prompt": fact.prompt, "target": fact.target, "relation": fact.relation,
                "logprob": score.logp, "exact": score.exact,
                **{name: float(values[0]) for name, values in cosines.items()},
                **{
                    f"{name}_control": float(values[1:].mean()) if others else float("nan")
                    for name, values in cosines.items()
                },
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.attrs["provenance"] = provenance(
        model,
        facts=[fact.to_dict() for fact in facts],
        prepend_bos=encoded[0].prepend_bos,
        active_edits=sorted(active_base(model)),
    )
    return frame


def ease_of_recall(
    frame: pd.DataFrame, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Spearman correlation of relatedness with the log-probability of recall, with bootstrap intervals.

    Args:
        frame: from `relatedness`, or with its columns.

    Returns:
        a row per measure and form: "cosine"; "control" (the cosine with other objects of the relation); and
        "excess", their difference: what is particular to the pair. And `within`: whether each relation's
        mean was subtracted from the ranks, so that easy relations count for nothing. Columns measure, form,
        within, spearman, low, high, n_facts.

    Raises:
        InputError: the frame lacks the columns.
        RangeError: `level` or `resamples` is out of range, or there are fewer than three facts.

    Example:
        >>> ease_of_recall(relatedness(model, facts)).query("form == 'excess' and within")
    """
    wanted = ("relation", "logprob", *MEASURES, *(f"{name}_control" for name in MEASURES))
    if missing := [name for name in wanted if name not in frame]:
        raise InputError(f"frame: expected the result of relatedness, got one without {', '.join(missing)}.")
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    require_positive("resamples", resamples)
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        cosine, control = frame[name], frame[f"{name}_control"]
        for form, values in (("cosine", cosine), ("control", control), ("excess", cosine - control)):
            known = values.notna().to_numpy()
            relation = frame["relation"].fillna("")[known].to_numpy()
            pair = np.stack([values.to_numpy()[known], frame["logprob"].to_numpy()[known]])
            if pair.shape[1] < 3:
                raise RangeError(
                    f"frame: expected at least 3 facts with {name} ({form}), got {pair.shape[1]}."
                )
            for within in (False, True):
                groups = relation if within else np.zeros(len(relation))
                low, high = _interval(pair, groups, level, resamples, seed)
                rows.append(
                    {
                        "measure": name, "form": form, "within": within,
                        "spearman": _spearman(pair, groups), "low": low, "high": high,
                        "n_facts": pair.shape[1],
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _subject(
    table: Tensor, mean: Tensor, encoded: EncodedPrompt
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """The directions of a subject's tokens together, and of its last one."""
    assert encoded.subject is not None
    ids = encoded.ids[encoded.subject.start : encoded.subject.stop]
    rows = table[ids.to(table.device)].double() - mean
    whole, last = (vector / vector.norm() for vector in (rows.mean(0), rows[-1]))
    return whole, last


def _spearman(pair: Float[NDArray[np.float64], "2 fact"], groups: NDArray[Any]) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(pair, axis=1)
    _, place = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=row) for row in ranks])
    ranks = ranks - (sums / np.bincount(place))[:, place]
    sizes = np.sqrt((ranks**2).sum(1))
    return float(ranks[0] @ ranks[1] / sizes.prod()) if sizes.all() else float("nan")


def _interval(
    pair: Float[NDArray[np.float64], "2 fact"], groups: NDArray[Any], level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval over facts drawn with replacement."""
    n_facts = pair.shape[1]
    drawn = np.random.default_rng(seed).integers(n_facts, size=(resamples, n_facts))
    found = [_spearman(pair[:, rows], groups[rows]) for rows in drawn]
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
