"""Noise on the embeddings of the subject's tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt
from mechstyle.tracing.corrupted import Corrupted, subject_of
from mechstyle.tracing.reference import checked_subjects, reference_sigma

__all__ = ["GaussianNoise", "UniformNoise"]

Draw = Callable[[tuple[int, int], torch.Generator], Tensor]
"""From a shape and a source of randomness to noise of size one."""


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Noise N(0, (multiple * sigma)^2) on the embeddings of the subject's tokens (Meng et al. 2022).

    Attributes:
        multiple: noise in multiples of sigma; the paper uses 3.
        sigma: standard deviation of embedding entries; None measures it over the reference subjects.
        draws: explicit noise instead, used as it is; their number is then the number of samples.
        replace: put the noise in place of the embeddings, not onto them; the baseline is that of this noise.
        reference: subjects over which sigma is measured; None is the packaged list, the same for every model.

    Raises:
        RangeError: `multiple` or `sigma` is negative or not finite.
        InputError: `draws` is not a finite [sample, subject_token, d_model] tensor, or `reference` is empty.

    Example:
        >>> causal_trace(model, fact, corruption=GaussianNoise(multiple=3.0, sigma=0.05))
    """

    multiple: float = 3.0
    sigma: float | None = None
    draws: Float[Tensor, "sample subject_token d_model"] | None = None
    replace: bool = False
    reference: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_noise(("noise (multiple of sigma)", self.multiple), ("sigma", self.sigma))
        _check_replace(self.replace)
        if self.reference is not None:
            object.__setattr__(self, "reference", checked_subjects(self.reference))
        if self.draws is not None:
            _check_draws(self.draws)

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """Noise for the subject's tokens, drawn on the CPU in fp32; more samples keep the first ones.

        Raises:
            TextError: the prompt has no subject.
            InputError: explicit draws do not fit the subject's tokens or the model's width.
            ModelError: the embeddings are not finite.
        """
        tokens, width = subject_of(encoded), int(model.cfg.d_model)
        if self.draws is not None:
            if self.draws.shape[1:] != (len(tokens), width):
                raise InputError(
                    f"noise (draws): expected [sample, {len(tokens)}, {width}] ({len(tokens)} subject "
                    f"tokens, d_model {width}), got shape {list(self.draws.shape)}."
                )
            values = self.draws.detach().cpu().clone()
            digest = hashlib.sha256(values.double().numpy().tobytes()).hexdigest()
            source = {"sigma": self.sigma, "sigma_source": "explicit draws", "sha256": digest}
            return Corrupted(
                values, not self.replace, tokens, _record("explicit draws", self.replace, source)
            )
        sigma, source = _sigma(model, self.sigma, self.reference)
        noise = _drawn(_normal, (len(tokens), width), samples=samples, seed=seed) * (self.multiple * sigma)
        source = {"multiple": self.multiple, "sigma": sigma, **source}
        return Corrupted(noise, not self.replace, tokens, _record("gaussian", self.replace, source))


@dataclass(frozen=True, eq=False)
class UniformNoise:
    """Noise from (-width, width) on the embeddings of the subject's tokens.

    Attributes:
        multiple: the width in multiples of sigma, as in the public code of Meng et al. (2022).
        width: the width itself, in place of a multiple.
        sigma: standard deviation of embedding entries; None measures it over the reference subjects.
        replace: put the noise in place of the embeddings, not onto them; the baseline is that of this noise.
        reference: subjects over which sigma is measured; None is the packaged list, the same for every model.

    Raises:
        RangeError: `multiple`, `width` or `sigma` is negative or not finite.
        InputError: `width` came with a `sigma` or `reference` that it does not use, or `reference` is empty.

    Example:
        >>> causal_trace(model, fact, corruption=UniformNoise(multiple=3.0))
    """

    multiple: float = 3.0
    width: float | None = None
    sigma: float | None = None
    replace: bool = False
    reference: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_noise(
            ("noise (multiple of sigma)", self.multiple), ("width", self.width), ("sigma", self.sigma)
        )
        _check_replace(self.replace)
        if self.width is not None and (self.sigma is not None or self.reference is not None):
            raise InputError(
                "width: it already says the noise, but sigma or reference came as well. "
                "Give the width, or a multiple of sigma."
            )
        if self.reference is not None:
            object.__setattr__(self, "reference", checked_subjects(self.reference))

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """Noise for the subject's tokens, drawn on the CPU in fp32; more samples keep the first ones.

        Raises:
            TextError: the prompt has no subject.
            ModelError: the embeddings are not finite.
        """
        tokens = subject_of(encoded)
        width, source = self.width, {"width": self.width}
        if width is None:
            sigma, found = _sigma(model, self.sigma, self.reference)
            width = self.multiple * sigma
            source = {"width": width, "multiple": self.multiple, "sigma": sigma, **found}
        shape = (len(tokens), int(model.cfg.d_model))
        noise = _drawn(_flat, shape, samples=samples, seed=seed) * width
        return Corrupted(noise, not self.replace, tokens, _record("uniform", self.replace, source))


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def _flat(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float32) - 1


def _drawn(draw: Draw, shape: tuple[int, int], *, samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw(shape, generator) for _ in range(samples)])


def _sigma(
    model: HookedModel, given: float | None, reference: Sequence[str] | None
) -> tuple[float, dict[str, Any]]:
    return reference_sigma(model, reference) if given is None else (given, {"sigma_source": "given"})


def _record(rule: str, replace: bool, details: dict[str, Any]) -> dict[str, Any]:
    how = "in place of the embedding" if replace else "added"
    return {"rule": f"{rule}, {how}", **details}


def _check_noise(*sizes: tuple[str, float | None]) -> None:
    for name, value in sizes:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value >= 0):
            raise RangeError(f"{name}: expected a finite number of 0 or more, got {value!r}.")


def _check_replace(replace: object) -> None:
    if not isinstance(replace, bool):
        raise InputError(f"replace: expected True or False, got {replace!r}.")


def _check_draws(draws: object) -> None:
    if not isinstance(draws, Tensor):
        raise InputError(f"noise (draws): expected a tensor of draws, got {type(draws).__name__}.")
    if draws.ndim != 3 or draws.shape[0] == 0:
        raise InputError(
            "noise (draws): expected a tensor [sample, subject_token, d_model] with at least one "
            f"sample, got shape {list(draws.shape)}."
        )
    if not bool(torch.isfinite(draws).all()):
        raise InputError("noise (draws): expected finite numbers, got NaN or infinity.")
