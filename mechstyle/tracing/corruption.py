"""Noise on the embeddings of the subject's tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle import organisms
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, fingerprint
from mechstyle.tokens import EncodedPrompt, encode
from mechstyle.tracing.corrupted import Corrupted
from mechstyle.weights import parameter_value

__all__ = ["GaussianNoise", "embedding_sigma", "reference_sigma"]

N_REFERENCE = 200


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    """Noise N(0, (multiple * sigma)^2) added to the embeddings of the subject's tokens (Meng et al. 2022).

    Attributes:
        multiple: noise in multiples of sigma; the paper uses 3.
        sigma: standard deviation of embedding entries; None takes it from the model's fixed set of reference
            subjects.
        draws: explicit noise instead, used as it is; their number is then the number of samples.
        replace: put the noise in place of the embeddings, not onto them; the baseline is that of this noise.

    Raises:
        RangeError: `multiple` or `sigma` is negative or not finite.
        InputError: `draws` is not a finite [sample, subject_token, d_model] tensor.

    Example:
        >>> causal_trace(model, fact, corruption=GaussianNoise(multiple=3.0, sigma=0.05))
    """

    multiple: float = 3.0
    sigma: float | None = None
    draws: Float[Tensor, "sample subject_token d_model"] | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        for name, value in (("noise (multiple of sigma)", self.multiple), ("sigma", self.sigma)):
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value >= 0):
                raise RangeError(f"{name}: expected a finite number of 0 or more, got {value!r}.")
        if self.draws is not None:
            if not isinstance(self.draws, Tensor):
                found = type(self.draws).__name__
                raise InputError(f"noise (draws): expected a tensor of draws, got {found}.")
            if self.draws.ndim != 3 or self.draws.shape[0] == 0:
                raise InputError(
                    "noise (draws): expected a tensor [sample, subject_token, d_model] with at least one "
                    f"sample, got shape {list(self.draws.shape)}."
                )
            if not bool(torch.isfinite(self.draws).all()):
                raise InputError("noise (draws): expected finite numbers, got NaN or infinity.")

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """Noise for the subject's tokens; more samples from one seed keep the first ones.

        Raises:
            InputError: explicit draws do not fit the subject's tokens or the model's width.
            ModelError: the embeddings are not finite.
        """
        if encoded.subject is None:
            raise TextError("fact: its prompt has no subject tokens to corrupt.")
        sigma, source = self.sigma, "explicit draws" if self.draws is not None else "given"
        if sigma is None and self.draws is None:
            sigma, source = reference_sigma(model)
        values = self.sample(
            sigma=sigma,
            n_tokens=len(encoded.subject),
            d_model=int(model.cfg.d_model),
            samples=samples,
            seed=seed,
        )
        record = {**self.record(), "sigma": sigma, "sigma_source": source}
        return Corrupted(values, not self.replace, encoded.subject, record)

    def sample(
        self, *, sigma: float | None, n_tokens: int, d_model: int, samples: int, seed: int
    ) -> Float[Tensor, "sample subject_token d_model"]:
        """Draw the noise on the CPU in fp32; more samples from one seed keep the first ones.

        Raises:
            InputError: explicit draws do not fit the subject's tokens or the model's width.

        Example:
            >>> GaussianNoise().sample(sigma=0.1, n_tokens=2, d_model=192, samples=10, seed=0).shape
            torch.Size([10, 2, 192])
        """
        if self.draws is not None:
            if self.draws.shape[1:] != (n_tokens, d_model):
                raise InputError(
                    f"noise (draws): expected [sample, {n_tokens}, {d_model}] ({n_tokens} subject tokens, "
                    f"d_model {d_model}), got shape {list(self.draws.shape)}."
                )
            return self.draws.detach().cpu().clone()
        if sigma is None:
            raise InputError("sigma: expected a number, since the noise is a multiple of it, got None.")
        generator = torch.Generator().manual_seed(seed)
        rows = [torch.randn(n_tokens, d_model, generator=generator) for _ in range(samples)]
        return torch.stack(rows) * (self.multiple * sigma)

    def record(self) -> dict[str, str | float | None]:
        """The rule in JSON form, for provenance; explicit draws are named by their hash."""
        how = "in place of the embedding" if self.replace else "added"
        if self.draws is None:
            return {"rule": f"gaussian, {how}", "multiple": self.multiple}
        digest = hashlib.sha256(self.draws.detach().cpu().double().numpy().tobytes()).hexdigest()
        return {"rule": f"explicit draws, {how}", "sha256": digest}


def embedding_sigma(model: HookedModel, subjects: Sequence[str]) -> float:
    """Standard deviation of the token-embedding entries over the tokens of these subjects (Meng et al. 2022).

    Args:
        subjects: a fixed reference set of the model; each is tokenised as a text of its own, without BOS.

    Raises:
        InputError: no subjects.
        ModelError: the embeddings are not finite.

    Example:
        >>> sigma = embedding_sigma(model, ["Miles Davis", "Toko Yasuda"])
    """
    if not subjects:
        raise InputError("subjects: expected at least one reference subject, got none.")
    ids = torch.cat([encode(model, subject, prepend_bos=False).ids for subject in subjects])
    embedding = parameter_value(model, "embed.W_E")
    return _spread(embedding.detach()[ids.to(embedding.device)])


def reference_sigma(model: HookedModel) -> tuple[float, str]:
    """Sigma of the model's fixed reference set, and where it comes from: never from the traced fact.

    An embedded organism has its ground truth's 200 reference subjects; others use the whole embedding matrix.

    Raises:
        ModelError: the embeddings are not finite.

    Example:
        >>> sigma, source = reference_sigma(model)
    """
    name = organisms.with_fingerprint(fingerprint(model))
    if name is not None:
        subjects = organisms.reference_subjects(name)[:N_REFERENCE]
        return embedding_sigma(model, subjects), f"{len(subjects)} reference subjects of {name}"
    return _spread(parameter_value(model, "embed.W_E").detach()), "all token embeddings"


def _spread(entries: Tensor) -> float:
    sigma = float(entries.double().std(correction=0))
    if not math.isfinite(sigma):
        raise ModelError(
            "model: its token embeddings hold NaN or infinity. Load a model with finite weights."
        )
    return sigma
