"""Uncentred second moments of an MLP's keys over natural text, ``C = E[k kᵀ]``, streamed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.editing.moments import RunningMoments, text_chain
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import FileError, InputError, RangeError
from mechstyle.hooks import counted
from mechstyle.models import HookedModel, edited_weights, provenance, require_hooked, resolve_bos
from mechstyle.runs import capture
from mechstyle.sites import Site, check_layer

__all__ = ["Covariance", "CovarianceWarning", "covariance"]


class CovarianceWarning(UserWarning):
    """A covariance can be used, but is not all that it should be."""


@dataclass(frozen=True, eq=False)
class Covariance(Mapping[int, Tensor]):
    """Second moments by layer, fp64 ``[d_mlp, d_mlp]`` on the CPU, and what they were taken over.

    Args:
        count: number of key vectors that each moment averages.
        provenance: model fingerprint, text hash and settings, as JSON values.

    >>> moments[4].shape, moments.count  # doctest: +SKIP
    (torch.Size([768, 768]), 50000)
    """

    matrices: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
    count: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: int) -> Float[Tensor, "d_mlp d_mlp"]:
        return self.matrices[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    def condition_number(self, layer: int) -> float:
        """Largest over smallest eigenvalue, infinite when singular. Beyond about 1e12 expect a ridge."""
        values = torch.linalg.eigvalsh(self[layer])
        smallest, largest = float(values[0]), float(values[-1])
        return largest / smallest if smallest > 0 else float("inf")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file with a content hash.

        Raises:
            FileError: the file cannot be written.
        """
        header = {"count": self.count, "provenance": dict(self.provenance)}
        return save_tensors(path, "covariance", {str(layer): self[layer] for layer in self}, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Covariance:
        """Read what ``save`` wrote.

        Raises:
            FileError: the file is missing, cut short, changed, or not a covariance.
        """
        tensors, header = load_tensors(path, "covariance")
        if "count" not in header or "provenance" not in header or not all(name.isdigit() for name in tensors):
            raise FileError(f"cannot read {path}: its covariance is incomplete. Save it again.")
        matrices = {int(name): tensors[name] for name in sorted(tensors, key=int)}
        return cls(matrices, int(header["count"]), header["provenance"])


def covariance(
    model: HookedModel,
    texts: Iterable[str],
    *,
    layers: int | Sequence[int],
    n_keys: int = 50_000,
    prepend_bos: bool | None = None,
    batch_size: int = 16,
    max_positions: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool = False,
) -> Covariance:
    """Average ``k kᵀ`` over the first ``n_keys`` keys of a text stream, for all layers in one pass.

    A key is the MLP's activation at one token (BOS included when it is prepended; padding never). Products
    are taken in the model's precision, fp32 at least, and summed in fp64. No more than one batch of texts is
    held in memory.

    Args:
        texts: documents, read once and only as far as needed; empty ones are passed over.
        n_keys: number of key vectors; about ``10 · d_mlp`` suffice.
        prepend_bos: None means the model's default; edits should use the same.
        max_positions: tokens that are read of each document, from its beginning.
        checkpoint: a file that is written every ``checkpoint_every`` batches and removed at the end. Where it
            exists the work goes on from there, provided that model, active edits, settings and texts are the
            same.
        progress: show a progress bar on the terminal.

    Raises:
        InputError: no layers, texts that hold no token, or a checkpoint of other work.
        RangeError: a layer or number is out of range.
        FileError: the checkpoint is damaged or cannot be written.
        ModelError: the model's keys are not finite.

    Warns:
        CovarianceWarning: the texts hold fewer keys than asked for, or too few for a matrix of full rank.

    Meng et al. 2022 (ROME), appendix E.1: ``C`` of eq. 2.

    >>> moments = covariance(model, texts, layers=[4], n_keys=20_000)  # doctest: +SKIP
    """
    if isinstance(texts, str):
        raise InputError("texts: expected an iterable of documents, got one string; pass [text].")
    require_hooked(model)
    chosen = _check_layers(model, layers)
    numbers = {"n_keys": n_keys, "batch_size": batch_size, "max_positions": max_positions}
    for name, number in {**numbers, "checkpoint_every": checkpoint_every}.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RangeError(f"{name}: expected 1 or more, got {number}.")
    bos, device, d_mlp = resolve_bos(model, prepend_bos), torch.device(model.cfg.device), int(model.cfg.d_mlp)
    origin = provenance(model)
    settings: dict[str, Any] = {
        "layers": list(chosen),
        "n_keys": n_keys,
        "prepend_bos": bos,
        "max_positions": max_positions,
        "edited_weights": edited_weights(model),
    }
    identity = {**settings, "fingerprint": origin["fingerprint"]}
    if checkpoint is not None and Path(checkpoint).exists():
        running = RunningMoments.load(checkpoint, identity, device)
    else:
        running = RunningMoments.zeros(chosen, d_mlp, device)

    stream = _documents(model, texts, running, n_keys, min(max_positions, model.cfg.n_ctx), bos)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("second moments", total=n_keys, completed=running.count)
        for index, batch in enumerate(iter(lambda: list(islice(stream, batch_size)), []), start=1):
            rows = [ids for _, ids in batch]
            _add_keys(model, rows, chosen, running)
            running.passed([text for text, _ in batch], sum(map(len, rows)))
            bar.update(task, completed=running.count)
            if checkpoint is not None and index % checkpoint_every == 0:
                running.save(checkpoint, identity)
    if running.count == 0:
        raise InputError("texts: expected at least one document with text, got none.")
    _warn_if_few(running.count, n_keys, d_mlp)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    read = {"count": running.count, "n_texts": running.n_texts, "text_sha256": running.text_sha256}
    summary = {**origin, "settings": {"method": "covariance", **settings, **read}}
    return Covariance(running.finish(), running.count, summary)


def _add_keys(
    model: HookedModel, rows: Sequence[Tensor], layers: Sequence[int], running: RunningMoments
) -> None:
    """Add the keys at all tokens of some texts, padding left out, layer by layer while the model runs."""
    real = pad_sequence([torch.ones_like(ids) for ids in rows], batch_first=True)
    tokens = pad_sequence(list(rows), batch_first=True)
    padded, sites = not bool(real.all()), [Site(layer, "key") for layer in layers]

    def adder(layer: int) -> Callable[..., None]:
        def add(state: Tensor, hook: Any) -> None:
            running.add(layer, state[real.to(state.device).bool()] if padded else state.flatten(0, 1))

        return add

    hooks, check = counted([(site.hook, adder(site.layer)) for site in sites])
    capture(model, tokens, [max(sites)], attention_mask=real, hooks=hooks)
    check()


def _documents(
    model: HookedModel, texts: Iterable[str], done: RunningMoments, n_keys: int, width: int, bos: bool
) -> Iterator[tuple[str, Tensor]]:
    """Each text not ``done`` with its tokens, cut to ``width``, the last so that all add up to ``n_keys``."""
    start = [model.tokenizer.bos_token_id] if bos else []
    left, to_skip, expected, chain = n_keys - done.count, done.n_texts, done.text_sha256, ""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"texts: expected documents as text, got {type(text).__name__}.")
        own = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:width]
        if not own:
            continue
        if to_skip:
            to_skip, chain = to_skip - 1, text_chain(chain, text)
            if not to_skip and chain != expected:
                raise InputError(
                    "texts: expected those that the checkpoint has read, got others; "
                    "pass the same texts, or remove the checkpoint to begin again."
                )
            continue
        if left == 0:
            return
        ids = [*start, *own][: min(width, left)]
        left -= len(ids)
        yield text, torch.tensor(ids, dtype=torch.long)
        if left == 0:
            return


def _check_layers(model: HookedModel, layers: int | Sequence[int]) -> tuple[int, ...]:
    listed = list(layers) if isinstance(layers, Iterable) else [layers]
    if not listed:
        raise InputError("layers: expected at least one layer, got none.")
    return tuple(sorted({check_layer(layer, model.cfg.n_layers, name="layers") for layer in listed}))


def _warn_if_few(count: int, n_keys: int, d_mlp: int) -> None:
    if count < d_mlp:
        warnings.warn(
            f"covariance: {count} keys cannot fill a matrix of rank d_mlp = {d_mlp}; a ridge will be "
            f"needed to invert it. Give more text: about {10 * d_mlp} keys suffice.",
            CovarianceWarning,
            stacklevel=3,
        )
    elif count < n_keys:
        warnings.warn(
            f"covariance: the texts hold {count} keys, fewer than the n_keys = {n_keys} asked for. "
            "Give more text, or a smaller n_keys.",
            CovarianceWarning,
            stacklevel=3,
        )
