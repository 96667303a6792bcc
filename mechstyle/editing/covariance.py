"""Uncentred second moments of an MLP's keys over natural text, ``C = E[k kᵀ]``, streamed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.editing.key_stream import (
    KeySettings,
    TextSource,
    documents_of,
    require_positive,
    require_some,
    token_rows,
)
from mechstyle.editing.moments import Checkpoint, RunningMoments
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import FileError
from mechstyle.hooks import counted
from mechstyle.models import HookedModel, provenance, require_hooked
from mechstyle.runs import capture
from mechstyle.sites import Site
from mechstyle.solve import closed_form_update

__all__ = ["Covariance", "CovarianceWarning", "covariance", "warn_if_few"]

T = TypeVar("T")


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

    def jitter(self, layer: int) -> float:
        """The multiple of the identity that an edit adds before it inverts the moment; 0 when none is needed.

        Raises:
            InputError: the matrix is zero, or not positive semi-definite.
        """
        first = torch.eye(1, len(self[layer]), dtype=torch.float64)
        return closed_form_update(first, torch.ones(1, 1), self[layer], form="batch").jitter

    def examined(self) -> Covariance:
        """The same moments, with each layer's condition number and jitter in ``provenance["condition"]``.

        An infinite condition number becomes None there. Takes about as long as inverting each matrix.

        >>> moments.examined().provenance["condition"]  # doctest: +SKIP
        {'4': {'condition_number': 81234.5, 'jitter': 0.0}}
        """
        condition = {}
        for layer in self:
            number = self.condition_number(layer)
            finite = number if number != float("inf") else None
            condition[str(layer)] = {"condition_number": finite, "jitter": self.jitter(layer)}
        return replace(self, provenance={**self.provenance, "condition": condition})

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
    texts: TextSource = None,
    *,
    layers: int | Sequence[int],
    n_keys: int = 50_000,
    prepend_bos: bool | None = None,
    batch_size: int = 16,
    max_positions: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> Covariance:
    """Average ``k kᵀ`` over the first ``n_keys`` keys of a text stream, for all layers in one pass.

    A key is the MLP's activation at one token (BOS included when it is prepended; padding never). Products
    are taken in the model's precision, fp32 at least, and summed in fp64. No more than one matrix a layer and
    one batch of texts is held in memory. ``cached_covariance`` does the same work only once.

    Args:
        texts: documents, read once and only as far as needed, empty ones passed over; the ``Path`` of a text
            file (blank lines between documents) or of a folder of ``*.txt``; None takes the texts that an
            embedded model was taught with.
        n_keys: number of key vectors; about ``10 · d_mlp`` suffice.
        prepend_bos: None means the model's default; edits should use the same.
        max_positions: tokens that are read of each document, from its beginning.
        checkpoint: a file that is written now and then, and when the texts break off, and is removed at the
            end. Where it exists the work goes on from there, provided that model, active edits, settings and
            texts are the same; the result has the same bits as if nothing had happened.
        checkpoint_every: batches between two checkpoints; None means about half a minute.
        progress: show a progress bar on the terminal.

    Raises:
        InputError: no layers, no texts, texts that hold no token, or a checkpoint of other work.
        RangeError: a layer or number is out of range.
        FileError: texts cannot be read; the checkpoint is damaged or cannot be written.
        ModelError: the model's keys are not finite.

    Warns:
        CovarianceWarning: the texts hold fewer keys than asked for, or too few for a matrix of full rank.

    Meng et al. 2022 (ROME), appendix E.1: ``C`` of eq. 2.

    >>> moments = covariance(model, texts, layers=[4], n_keys=20_000)  # doctest: +SKIP
    """
    require_hooked(model)
    settings = KeySettings.checked(
        model, layers=layers, n_keys=n_keys, prepend_bos=prepend_bos, max_positions=max_positions
    )
    require_positive(batch_size=batch_size)
    if checkpoint_every is not None:
        require_positive(checkpoint_every=checkpoint_every)
    documents = documents_of(model, texts)
    device, d_mlp = torch.device(model.cfg.device), int(model.cfg.d_mlp)
    kept = Checkpoint(
        None if checkpoint is None else Path(checkpoint), settings.identity(model), checkpoint_every
    )
    running = kept.begin(settings.layers, d_mlp, device)
    read = running.read
    rows = token_rows(model, documents, settings, read_before=replace(read))
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("second moments", total=n_keys, completed=read.count)
        batches = _batches(rows, batch_size, lambda: kept.keep(running))
        for number, batch in enumerate(batches, start=1):
            ids = [own for _, own in batch]
            _add_keys(model, ids, settings.layers, running)
            read.passed([text for text, _ in batch], sum(map(len, ids)))
            bar.update(task, completed=read.count)
            kept.after_batch(running, number)
    require_some(read)
    warn_if_few(read.count, n_keys, d_mlp, stacklevel=3)
    origin = {"method": "covariance", **settings.record(model), **vars(read)}
    found = Covariance(running.finish(), read.count, {**provenance(model), "settings": origin})
    kept.remove()
    return found


def warn_if_few(count: int, n_keys: int, d_mlp: int, *, stacklevel: int) -> None:
    """Warn where moments are not all that they should be.

    Warns:
        CovarianceWarning: the texts hold fewer keys than asked for, or too few for a matrix of full rank.
    """
    message = None
    if count < d_mlp:
        message = (
            f"covariance: {count} keys cannot fill a matrix of rank d_mlp = {d_mlp}; a ridge will be "
            f"needed to invert it. Give more text: about {10 * d_mlp} keys suffice."
        )
    elif count < n_keys:
        message = (
            f"covariance: the texts hold {count} keys, fewer than the n_keys = {n_keys} asked for. "
            "Give more text, or a smaller n_keys."
        )
    if message is not None:
        warnings.warn(message, CovarianceWarning, stacklevel=stacklevel)


def _batches(rows: Iterator[T], size: int, broken_off: Callable[[], None]) -> Iterator[list[T]]:
    """Rows in batches; ``broken_off`` is called when reading them fails or is interrupted.

    Between batches the sums of all layers are of the same texts, so that they are worth keeping.
    """
    while True:
        with ExitStack() as on_failure:
            on_failure.callback(broken_off)
            batch = list(islice(rows, size))
            on_failure.pop_all()
        if not batch:
            return
        yield batch


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
