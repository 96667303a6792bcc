"""Edits beside the weights: a cache of new answers, and new facts put before the prompt."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import FileError, InputError, ModelError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, fingerprint, require_hooked
from mechstyle.runs import capture
from mechstyle.sites import Site
from mechstyle.tokens import encode, pad

__all__ = ["EditCache", "InContextEdit", "MemoryEdit", "Recall", "last_states", "load_memory_edit"]

FILE_KIND = "memory edit"


@dataclass(frozen=True)
class Recall:
    """What a cache has for a prompt.

    Args:
        answer: the continuation that is given.
        epsilon: with this probability the model speaks for itself instead.
    """

    answer: str
    epsilon: float


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryEdit(ABC):
    """An edit that leaves the weights alone; ``evaluate`` takes it as it takes an ``EditSet``.

    Args:
        fingerprint: of the model that the edit was made for; checked when it is used.
        provenance: method, settings and versions, as JSON values.
        requests: what was asked for.
    """

    kind: ClassVar[str]
    requests: tuple[EditRequest, ...]
    fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that change: none."""
        return ()

    @property
    def context(self) -> str:
        """The text that is put before every prompt."""
        return ""

    def recall(
        self, model: HookedModel, prompts: Sequence[str], *, prepend_bos: bool | None = None
    ) -> tuple[Recall | None, ...]:
        """What is given instead of the model's own answer to each prompt; None leaves it to the model.

        Raises:
            TextError: a prompt cannot be tokenised.
        """
        return (None,) * len(prompts)

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the contents and of the model they belong to: equal edits have equal names."""
        contents, tensors = self._contents()
        digest = hashlib.sha256(json.dumps([self.kind, self.fingerprint, contents], sort_keys=True).encode())
        for name in sorted(tensors):
            digest.update(f"\n{name} {list(tensors[name].shape)}\n".encode())
            digest.update(tensors[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[MemoryEdit]:
        """Check the model and yield the edit; nothing in the model changes.

        Raises:
            ModelError: another model (by fingerprint).
        """
        require_hooked(model)
        found = fingerprint(model)
        if found != self.fingerprint:
            raise ModelError(
                f"model: expected the one that the edit was made for (fingerprint {self.fingerprint[:12]}), "
                f"got another ({found[:12]}); load that model, or make the edit again for this one."
            )
        yield self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file: contents, requests, provenance, fingerprint and a content hash.

        Raises:
            FileError: the file cannot be written; an older file is left as it was.
        """
        contents, tensors = self._contents()
        header = {
            "memory": self.kind,
            "fingerprint": self.fingerprint,
            "provenance": dict(self.provenance),
            "requests": [request.to_dict() for request in self.requests],
            "contents": contents,
        }
        return save_tensors(path, FILE_KIND, tensors, header)

    @abstractmethod
    def _contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the edit holds besides: JSON values, and tensors by name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EditCache(MemoryEdit):
    """New answers, looked up by the prompt: exactly, or by the likeness of a hidden state.

    A prompt whose tokens are those of an entry gets that entry's answer. With a ``threshold``, any other
    prompt gets the answer of the entry whose state is most like its own, if their cosine reaches it. A prompt
    that is found is answered with the cached answer with probability ``1 - epsilon``, and by the model with
    probability ``epsilon``, so that every continuation keeps a probability.

    Args:
        prompts: an entry each, in all phrasings of the requests.
        answers: what each prompt is answered with.
        tokens: the prompts' tokens, without BOS.
        epsilon: above 0 and below 1/2, so that the cached answer is always the most probable one.
        layer: of the look-up by likeness; None without it.
        threshold: least cosine of a look-up by likeness; None without it.
        states: what leaves the layer at each prompt's last token, fp64 on the CPU.
    """

    kind: ClassVar[str] = "cache"
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    epsilon: float
    layer: int | None = None
    threshold: float | None = None
    states: Float[Tensor, "entry d_model"] | None = None

    def recall(
        self, model: HookedModel, prompts: Sequence[str], *, prepend_bos: bool | None = None
    ) -> tuple[Recall | None, ...]:
        """The cached answer to each prompt; None where nothing is found.

        Raises:
            TextError: a prompt cannot be tokenised.

        >>> cache.recall(model, ["Miles Davis plays the"])  # doctest: +SKIP
        (Recall(answer=' guitar', epsilon=0.001),)
        """
        entries = {tokens: entry for entry, tokens in enumerate(self.tokens)}
        found = [entries.get(_own_tokens(model, prompt)) for prompt in prompts]
        others = [row for row, entry in enumerate(found) if entry is None]
        if others and self.layer is not None and self.states is not None and self.threshold is not None:
            asked = [prompts[row] for row in others]
            states = last_states(model, asked, layer=self.layer, prepend_bos=prepend_bos)
            likeness, nearest = _cosines(states, self.states).max(-1)
            for row, value, entry in zip(others, likeness.tolist(), nearest.tolist(), strict=True):
                found[row] = entry if value >= self.threshold else None
        return tuple(None if one is None else Recall(self.answers[one], self.epsilon) for one in found)

    def _contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        values = {
            "prompts": list(self.prompts),
            "answers": list(self.answers),
            "tokens": [list(one) for one in self.tokens],
            "epsilon": self.epsilon,
            "layer": self.layer,
            "threshold": self.threshold,
        }
        return values, {} if self.states is None else {"states": self.states}


@dataclass(frozen=True, eq=False, kw_only=True)
class InContextEdit(MemoryEdit):
    """New facts told to the model before the prompt.

    Args:
        template: what is said of each fact, ``{}`` being its prompt with the new target.
    """

    kind: ClassVar[str] = "in context"
    template: str

    @property
    def statements(self) -> tuple[str, ...]:
        """Each request's prompt with its new target."""
        return tuple(request.fact.prompt + request.new_target for request in self.requests)

    @property
    def context(self) -> str:
        """The text that is put before every prompt: one sentence for each request."""
        return "".join(self.template.replace("{}", statement, 1) for statement in self.statements)

    def _contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"template": self.template, "statements": list(self.statements)}, {}


def load_memory_edit(path: str | os.PathLike[str]) -> EditCache | InContextEdit:
    """Read an edit that ``MemoryEdit.save`` wrote; the model is checked when the edit is used.

    Raises:
        FileError: the file is missing, cut short, changed, or not such an edit.

    >>> load_memory_edit("cache.safetensors").requests  # doctest: +SKIP
    """
    tensors, header = load_tensors(path, FILE_KIND)
    try:
        kind, contents = header["memory"], header["contents"]
        requests = tuple(EditRequest.from_dict(request) for request in header["requests"])
        mark, origin = header["fingerprint"], header["provenance"]
        if kind == InContextEdit.kind:
            return InContextEdit(
                requests=requests, fingerprint=mark, provenance=origin, template=contents["template"]
            )
        return EditCache(
            requests=requests,
            fingerprint=mark,
            provenance=origin,
            prompts=tuple(contents["prompts"]),
            answers=tuple(contents["answers"]),
            tokens=tuple(tuple(one) for one in contents["tokens"]),
            epsilon=contents["epsilon"],
            layer=contents["layer"],
            threshold=contents["threshold"],
            states=tensors.get("states"),
        )
    except (KeyError, InputError) as error:
        raise FileError(f"cannot read {path}: its edit is incomplete ({error}). Save it again.") from error


def last_states(
    model: HookedModel,
    prompts: Sequence[str],
    *,
    layer: int,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "prompt d_model"]:
    """What leaves a layer at each prompt's last token, fp64 on the CPU.

    Args:
        batch_size: sequences in one run; it does not change the result.

    Raises:
        TextError: a prompt cannot be tokenised.

    >>> last_states(model, ["Miles Davis plays the"], layer=4).shape  # doctest: +SKIP
    torch.Size([1, 192])
    """
    encoded = [encode(model, prompt, prepend_bos=prepend_bos) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    site, found = Site(layer, "resid"), dict[int, Tensor]()
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        batch = pad([encoded[row] for row in rows], pad_id=0)
        read = capture(model, batch.ids, [site], attention_mask=batch.attention_mask)[site]
        last = torch.tensor([len(encoded[row]) - 1 for row in rows], device=read.device)
        states = read[torch.arange(len(rows), device=read.device), last].double().cpu()
        found.update(zip(rows, states, strict=True))
    return torch.stack([found[row] for row in range(len(encoded))])


def _own_tokens(model: HookedModel, prompt: str) -> tuple[int, ...]:
    return tuple(encode(model, prompt, prepend_bos=False).ids.tolist())


def _cosines(
    states: Float[Tensor, "prompt d"], entries: Float[Tensor, "entry d"]
) -> Float[Tensor, "prompt entry"]:
    """Cosine of each pair, from -1 to 1 in spite of rounding; 0 with a state of zeros."""
    unit, known = (torch.nn.functional.normalize(one, dim=-1) for one in (states, entries))
    return (unit @ known.T).clamp(-1.0, 1.0)
