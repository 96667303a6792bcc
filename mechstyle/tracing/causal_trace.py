"""Causal tracing: corrupt the subject, put one clean state back, see what returns."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.tracing.answer import Metric
from mechstyle.tracing.corrupted import Corruption
from mechstyle.tracing.corruption import GaussianNoise
from mechstyle.tracing.engines import Engine
from mechstyle.tracing.grid import Tokens
from mechstyle.tracing.plan import plan_cells
from mechstyle.tracing.run_cells import run_cells
from mechstyle.tracing.setup import prepare_fact
from mechstyle.tracing.targets import Answer
from mechstyle.tracing.trace import Trace

__all__ = ["DEFAULT_KINDS", "causal_trace"]

DEFAULT_KINDS = ("resid", "mlp", "attn")


def causal_trace(
    model: HookedModel,
    fact: Fact,
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    corruption: Corruption | None = None,
    noise: float | Float[Tensor, "sample subject_token d_model"] = 3.0,
    sigma: float | None = None,
    metric: Metric = "prob",
    answer: Answer = None,
    answer_tokens: int | None = None,
    samples: int = 10,
    seed: int = 0,
    window: int | None = None,
    neuron_layer: int | None = None,
    tokens: Tokens | None = None,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    engine: Engine = "auto",
    progress: bool = False,
) -> Trace:
    """Restore one clean state at a time in a corrupted run and measure the answer (Meng et al. 2022, 2.1).

    Every cell sees the same noise draws. Cells before the subject equal the corrupted run and need none.

    Args:
        kinds: "resid" restores one block's output; "mlp" and "attn" their outputs in a window of layers;
            "severed_mlp" and "severed_attn" one block's output, while the MLPs' (the attentions') outputs of
            all later layers stay corrupted at the same token; "heads" what one head has taken in, "q", "k"
            and "v" its query, key or value, "pattern" what its query attends to (under grouped queries "k"
            and "v" are of one key-and-value head); "neurons" one neuron of the MLP of `neuron_layer`.
        corruption: how the subject is corrupted; `noise` and `sigma` are short for
            `GaussianNoise(noise, sigma)`.
        noise: multiples of sigma, or explicit draws, whose number then replaces `samples`.
        sigma: None takes it from the model's fixed reference set, never from this fact.
        metric: "prob" or "logprob" (nats) of the whole answer, teacher-forced; "neg_kl", minus the distance
            to the clean run's next-token distribution; or a function of logits [row, answer, vocab].
        answer: None is the fact's target; "predicted" is the model's own top token; else the exact
            continuation, or a `Contrast` of two.
        answer_tokens: score at most so many tokens of the answer; None scores all.
        samples: number of noise draws.
        window: layers in an mlp or attn window; None is 10 of 48, scaled to the model's depth.
        neuron_layer: the layer of the kind "neurons".
        tokens: named sets of tokens that are restored together, by indices or role, such as
            `{"subject": [0, 1], "end": "last prompt token"}`; the sets are then the token axis. None restores
            every token alone.
        batch_size: most rows in one forward pass, where a row is one cell under one noise draw; None takes
            what fits into 512 MiB (on a GPU into a quarter of its free memory).
        engine: "resume" computes only what a restored state can change; "whole" runs whole sequences; "auto"
            resumes where the model allows it (`mechstyle.blocks.can_resume`) and nobody has put hooks on it:
            hooks see the last positions only in a resumed run. Both give the same numbers up to rounding.
        progress: show a progress bar on stderr.

    Raises:
        TextError: the prompt cannot be tokenised as asked, or is too long.
        RangeError: `samples`, `noise`, `sigma`, `window`, `batch_size`, `neuron_layer`, `answer_tokens` or a
            token is out of range.
        InputError: an unknown kind or metric, draws of a wrong shape, two ways to say the noise, a neuron
            layer without neurons or the reverse, or sets of tokens that the prompt does not have.
        ModelError: the model's logits or embeddings are not finite, or a bridge has no such states.
        WorkError: a corrupted run gives a metric that is not finite.

    Example:
        >>> fact = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
        >>> trace = causal_trace(model, fact, kinds=("resid",), samples=10, seed=0)
        >>> trace.indirect_effect("resid").dims
        ('token', 'layer')
    """
    plan = plan_cells(
        model,
        kinds,
        window=window,
        neuron_layer=neuron_layer,
        tokens=tokens,
        batch_size=batch_size,
        engine=engine,
    )
    setup = prepare_fact(
        model,
        fact,
        corruption=_corruption(corruption, noise, sigma),
        metric=metric,
        answer=answer,
        samples=samples,
        seed=seed,
        prepend_bos=prepend_bos,
        answer_tokens=answer_tokens,
    )
    return run_cells(model, setup, plan, progress=progress)


def _corruption(corruption: Corruption | None, noise: float | Tensor, sigma: float | None) -> Corruption:
    if corruption is not None:
        if isinstance(noise, Tensor) or noise != 3.0 or sigma is not None:
            raise InputError(
                "corruption: it already says the noise, but noise or sigma came as well. "
                "Put them into GaussianNoise(multiple=..., sigma=..., draws=...)."
            )
        return corruption
    if isinstance(noise, Tensor):
        return GaussianNoise(draws=noise, sigma=sigma)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)):
        raise InputError(f"noise: expected a number or a tensor of draws, got {type(noise).__name__}.")
    return GaussianNoise(multiple=float(noise), sigma=sigma)
