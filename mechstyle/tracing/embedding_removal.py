"""Take the association of subject and object out of the subject's embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.errors import InputError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, named_weights, require_hooked
from mechstyle.tokens import encode_fact
from mechstyle.tracing.embedding_changes import Embedded, check_facts
from mechstyle.tracing.erasure import Eraser, fit_eraser, leave_one_out
from mechstyle.weights import parameter_value

__all__ = ["ErasePredictor", "Predictor", "RemoveDirection", "object_directions"]

Table = Literal["embedding", "unembedding"]
TABLES: tuple[str, ...] = get_args(Table)


@dataclass(frozen=True)
class RemoveDirection:
    """Project the object's direction out of the embeddings of the subject's tokens.

    ``x - ((x - mean) · d) d``, where ``mean`` is that of the embedding table and ``d`` the direction of the
    answer's first token in a table (`object_directions`), of length 1.

    Attributes:
        table: "embedding" takes the object's row of the embedding table, "unembedding" the direction that
            raises its logit.

    Raises:
        InputError: an unknown table.

    Example:
        >>> embedding_effects(model, facts, {"its logit's direction": RemoveDirection("unembedding")})
    """

    table: Table

    def __post_init__(self) -> None:
        _check_table(self.table)

    def changed(
        self, prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
    ) -> Float[Tensor, "sample token d_model"]:
        """The embeddings without the direction."""
        token = int(prompt.encoded.target_ids[0])
        direction = object_directions(prompt.model, [token], self.table)[0].to(embeddings)
        mean = parameter_value(prompt.model, "embed.W_E").mean(0).to(embeddings)
        here, found = slice(prompt.subject.start, prompt.subject.stop), embeddings.clone()
        along = (found[:, here] - mean) @ direction
        found[:, here] -= along[..., None] * direction
        return found

    def record(self) -> dict[str, Any]:
        """The change in JSON form."""
        return {"change": "remove direction", "table": self.table}


@dataclass(frozen=True, eq=False)
class Predictor:
    """The linear part of subjects' embeddings that predicts the object of one relation.

    Attributes:
        eraser: takes it out.
        n_facts: facts that it was fitted on.
        n_objects: different objects among them.
        accuracy: share of facts whose object a ridge regression on the others' embeddings gets right.
        majority: share of the most frequent object: what a constant gets right.
    """

    eraser: Eraser
    n_facts: int
    n_objects: int
    accuracy: float
    majority: float


@dataclass(frozen=True, eq=False)
class ErasePredictor:
    """Take out of the subject's embeddings whatever linearly predicts the object, relation by relation.

    The mean embedding over the subject's tokens is mapped by LEACE (Belrose et al. 2023), fitted on facts of
    the same relation, and each of these tokens is moved by the same vector.

    Attributes:
        predictors: by relation; "" has the facts without one.

    Example:
        >>> erase = ErasePredictor.fit(model, facts)
        >>> embedding_effects(model, facts, {"predictor": erase}, read_mlps=True)
    """

    predictors: Mapping[str, Predictor]

    @classmethod
    def fit(cls, model: HookedModel, facts: Sequence[Fact], *, shuffle: int | None = None) -> ErasePredictor:
        """Fit it on the mean embeddings of the facts' subjects, for every relation with two objects or more.

        A relation of fewer facts than the model has dimensions is fitted perfectly whatever it holds: look at
        `accuracy` and `majority`.

        Args:
            shuffle: a seed by which each relation's objects are dealt out to its subjects anew: the same
                erasure of an association that is not there, to compare with.

        Raises:
            InputError: no facts, or no relation has two objects.
            TextError: a prompt cannot be tokenised.
        """
        require_hooked(model)
        check_facts(facts)
        table = parameter_value(model, "embed.W_E").detach()
        groups: dict[str, list[Fact]] = defaultdict(list)
        for fact in facts:
            groups[fact.relation or ""].append(fact)
        found = {}
        for relation, some in groups.items():
            objects = {name: number for number, name in enumerate(dict.fromkeys(one.target for one in some))}
            if len(objects) < 2:
                continue
            vectors = torch.stack([_mean_subject(model, table, fact) for fact in some])
            labels = torch.tensor([objects[fact.target] for fact in some])
            if shuffle is not None:
                order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(shuffle))
                labels = labels[order]
            found[relation] = _fitted(vectors, labels.to(vectors.device))
        if not found:
            raise InputError(
                "facts: expected a relation with at least two objects, so that one can be predicted."
            )
        return cls(MappingProxyType(found))

    def changed(
        self, prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
    ) -> Float[Tensor, "sample token d_model"]:
        """The embeddings of the subject, moved.

        Raises:
            TextError: the fact's relation was not fitted.
        """
        relation = prompt.fact.relation or ""
        if relation not in self.predictors:
            raise TextError(
                f"ErasePredictor: was not fitted on the relation {relation!r}, but on "
                f"{', '.join(map(repr, self.predictors))}."
            )
        here, found = slice(prompt.subject.start, prompt.subject.stop), embeddings.clone()
        found[:, here] += self.predictors[relation].eraser.shift(found[:, here].mean(1))[:, None]
        return found

    def record(self) -> dict[str, Any]:
        """The change in JSON form."""
        return {
            "change": "erase predictor",
            "relations": {
                relation: {
                    "n_facts": one.n_facts, "n_objects": one.n_objects, "rank": one.eraser.rank,
                    "accuracy": one.accuracy, "majority": one.majority,
                }
                for relation, one in self.predictors.items()
            },
        }  # fmt: skip


def _fitted(vectors: Float[Tensor, "fact d_model"], labels: Int[Tensor, " fact"]) -> Predictor:
    counts = labels.bincount()
    return Predictor(
        fit_eraser(vectors, labels),
        n_facts=len(labels),
        n_objects=len(counts),
        accuracy=leave_one_out(vectors, labels),
        majority=float(counts.max()) / len(labels),
    )


def object_directions(
    model: HookedModel, tokens: Sequence[int], table: Table
) -> Float[Tensor, "token d_model"]:
    """What sets tokens apart from the mean token of a table, each of length 1, in fp32 at least.

    "unembedding" counts the final norm: its scale, and that LayerNorm does not see a mean. So a model and its
    folded copy have the same ones.

    Raises:
        InputError: an unknown table.

    Example:
        >>> object_directions(model, [17], "embedding").norm()  # doctest: +SKIP
        tensor(1.)
    """
    _check_table(table)
    weights = named_weights(model)
    rows = weights["embed.W_E"] if table == "embedding" else weights["unembed.W_U"].T
    dtype = torch.promote_types(rows.dtype, torch.float32)
    found = rows[list(tokens)].to(dtype) - rows.mean(0, dtype=dtype)
    if table == "unembedding":
        found = found * weights["ln_final.w"].to(dtype) if "ln_final.w" in weights else found
        if str(model.cfg.normalization_type).startswith("LN"):
            found = found - found.mean(-1, keepdim=True)
    unit: Tensor = found / found.norm(dim=-1, keepdim=True)
    return unit


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise InputError(f"table: expected one of {', '.join(TABLES)}, got {table!r}.")


def _mean_subject(model: HookedModel, table: Tensor, fact: Fact) -> Float[Tensor, " d_model"]:
    encoded = encode_fact(model, fact, prepend_bos=False)
    assert encoded.subject is not None
    ids = encoded.ids[encoded.subject.start : encoded.subject.stop]
    return table[ids.to(table.device)].double().mean(0)
