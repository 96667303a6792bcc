"""The fixed set of real subjects over which a model's embeddings are measured, and sigma over it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle import organisms
from mechstyle.cache import cache_folder
from mechstyle.errors import FileError, InputError, ModelError, TextError
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel, active_base, fingerprint
from mechstyle.weights import parameter_value

__all__ = ["EMBEDDING", "ORGANISM", "Reference", "checked_subjects", "embedding_sigma", "reference_sigma"]

ORGANISM: Final = "organism-m"
"""The embedded organism whose ground truth, real names from data sets, serves every model as a list."""
EMBEDDING: Final = "embed.W_E"
PACKAGED: Final = "packaged"
ALL: Final = "all token embeddings"
_RECIPE: Final = 1
"""Raised when the same subjects come to mean another sigma, so that older files are not found any more."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The tokens of reference subjects.

    Attributes:
        ids: tokens of all subjects, each tokenised as a text of its own, without BOS.
        record: which list, how many subjects and tokens, SHA-256 of the list.
    """

    ids: Int[Tensor, " token"]
    record: dict[str, Any]

    @classmethod
    def of(cls, model: HookedModel, subjects: Sequence[str] | None = None) -> Reference:
        """Tokenise reference subjects.

        Args:
            subjects: None is the packaged list, or every token where the tokenizer has no word for most of
                it.

        Raises:
            InputError: no subjects, or one text in place of a list.
            TextError: a subject is empty.
            ModelError: the model has no tokenizer.
        """
        chosen, name, digest = _listed(subjects)
        if model.tokenizer is None:
            raise ModelError("model: expected one with a tokenizer. Load it with tokenizer=...")
        rows = model.tokenizer(list(chosen), add_special_tokens=False, verbose=False)["input_ids"]
        ids = torch.tensor([token for row in rows for token in row], dtype=torch.long)
        unknown = model.tokenizer.unk_token_id
        known = ids if unknown is None else ids[ids != unknown]
        if subjects is None and 2 * len(known) <= len(ids):
            every = torch.arange(len(parameter_value(model, EMBEDDING)))
            return cls(every, {"list": ALL, "n_subjects": None, "n_tokens": len(every), "sha256": None})
        return cls(ids, {"list": name, "n_subjects": len(chosen), "n_tokens": len(ids), "sha256": digest})


def checked_subjects(subjects: Sequence[str], *, name: str = "subjects") -> tuple[str, ...]:
    """A user's own subjects.

    Args:
        name: of the argument, for errors.

    Raises:
        InputError: it is no list of names, or an empty one.
        TextError: a name is empty.
    """
    listed = isinstance(subjects, Sequence) and not isinstance(subjects, str)
    if not listed or not all(isinstance(subject, str) for subject in subjects):
        raise InputError(f"{name}: expected a list of names, got {subjects!r}.")
    if not subjects:
        raise InputError(f"{name}: expected at least one reference subject, got none.")
    if not all(subject.strip() for subject in subjects):
        raise TextError(f"{name}: expected names, got an empty one in {list(subjects)!r}.")
    return tuple(subjects)


def embedding_sigma(model: HookedModel, subjects: Sequence[str]) -> float:
    """Standard deviation of the token-embedding entries over the tokens of these subjects (Meng et al. 2022).

    Args:
        subjects: a fixed reference set of the model; each is tokenised as a text of its own, without BOS.

    Raises:
        InputError: no subjects.
        TextError: a subject is empty.
        ModelError: the embeddings are not finite, or the model has no tokenizer.

    Example:
        >>> sigma = embedding_sigma(model, ["Miles Davis", "Toko Yasuda"])
    """
    return _spread(model, Reference.of(model, subjects))


def reference_sigma(
    model: HookedModel, subjects: Sequence[str] | None = None
) -> tuple[float, dict[str, Any]]:
    """Sigma over a fixed set of reference subjects, and where it comes from: never from the traced fact.

    It is kept in the cache folder by the model's fingerprint and the list's hash; what is damaged there is
    measured anew.

    Args:
        subjects: None is a packaged list of 200 real people, places, companies and things, the same for every
            model.

    Raises:
        InputError: no subjects.
        TextError: a subject is empty.
        ModelError: the embeddings are not finite, or the model has no tokenizer.

    Example:
        >>> sigma, source = reference_sigma(model)
    """
    if EMBEDDING in active_base(model):
        # The fingerprint is that of the model without its edits.
        return _measured(model, subjects)
    dtype = str(parameter_value(model, EMBEDDING).dtype).removeprefix("torch.")
    key = {"list": _listed(subjects)[2], "fingerprint": fingerprint(model), "dtype": dtype, "recipe": _RECIPE}
    path = cache_folder() / "sigma" / f"{_digest(key)}.json"
    kept = _read(path, key)
    if kept is None:
        sigma, source = _measured(model, subjects)
        _keep(path, {**key, "sigma": sigma, "source": source})
        return sigma, source
    return float(kept["sigma"]), dict(kept["source"])


def _measured(model: HookedModel, subjects: Sequence[str] | None) -> tuple[float, dict[str, Any]]:
    reference = Reference.of(model, subjects)
    name, count = reference.record["list"], reference.record["n_subjects"]
    source = ALL if count is None else f"{count} {name} reference subjects"
    return _spread(model, reference), {"sigma_source": source, "reference": reference.record}


def _listed(subjects: Sequence[str] | None) -> tuple[Sequence[str], str, str]:
    """The subjects, what their list is called, and its SHA-256."""
    chosen = organisms.reference_subjects(ORGANISM) if subjects is None else checked_subjects(subjects)
    digest = hashlib.sha256(json.dumps(list(chosen), ensure_ascii=False).encode()).hexdigest()
    return chosen, PACKAGED if subjects is None else "given", digest


def _spread(model: HookedModel, reference: Reference) -> float:
    embedding = parameter_value(model, EMBEDDING).detach()
    sigma = float(embedding[reference.ids.to(embedding.device)].double().std(correction=0))
    if not math.isfinite(sigma):
        raise ModelError(
            "model: its token embeddings hold NaN or infinity. Load a model with finite weights."
        )
    return sigma


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is kept of this key, or None where there is no whole file of it."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.pop("checksum", None) != _digest(kept):
        return None
    return kept if key.items() <= kept.items() else None


def _keep(path: Path, data: Mapping[str, Any]) -> None:
    # What cannot be kept is measured again the next time.
    with suppress(OSError, FileError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps({**data, "checksum": _digest(data)}), encoding="utf-8")
