"""One prompt and what is asked of it, where nothing is compared: for the lens, saliency and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, NonFiniteError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, active_base, require_hooked
from mechstyle.runs import Hook, capture, logits
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt, encode, encode_fact
from mechstyle.tracing.answer import Metric
from mechstyle.tracing.targets import PREDICTED, Answer, Asked, Target

__all__ = ["AskedPrompt", "ask"]


@dataclass(frozen=True, eq=False)
class AskedPrompt:
    """A prompt, the questions about it, and the same for any embeddings in the place of its tokens' own.

    Attributes:
        encoded: the prompt with its (first) answer.
        asked: the questions; the value of a run is the sum of ``weight * score`` over them.
        record: what was asked, for provenance.
    """

    model: HookedModel
    encoded: EncodedPrompt
    asked: tuple[Asked, ...]
    record: dict[str, Any]

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt; those of the answer are never changed."""
        return self.encoded.n_prompt

    def embeddings(self) -> Float[Tensor, "token d_model"]:
        """The token embeddings of the prompt, in fp32 at least."""
        site = Site(0, "embed")
        found = capture(self.model, self.encoded.ids[None, : self.n_prompt], [site])[site][0]
        return found if found.dtype == torch.float64 else found.float()

    def given(self) -> AskedPrompt:
        """The same with metrics that know the clean run.

        Raises:
            NonFiniteError: its logits are NaN or infinite.
        """
        known = []
        for one in self.asked:
            clean = logits(self.model, one.question.ids, n_last=one.question.n_answer)
            if not bool(torch.isfinite(clean).all()):
                raise NonFiniteError(
                    "model: its logits on the clean prompt are NaN or infinite. Load one with finite weights."
                )
            known.append(replace(one, question=one.question.given(clean)))
        return replace(self, asked=tuple(known))

    def values(
        self,
        embeddings: Float[Tensor, "row token d_model"],
        *,
        hooks: Sequence[Hook] = (),
        grad: bool = False,
    ) -> Float[Tensor, " row"]:
        """The metric with these embeddings in place of the prompt's own, one run a row and question.

        Args:
            hooks: further ones, called in every run.
            grad: keep the graph for a backward pass to the embeddings.
        """
        place = Site(0, "embed").hook, _replaced(embeddings)
        total = torch.zeros(len(embeddings), device=embeddings.device)
        for one in self.asked:
            ids = one.question.ids.expand(len(embeddings), -1)
            n_answer = one.question.n_answer
            run = logits(self.model, ids, hooks=[place, *hooks], grad=grad, n_last=n_answer)
            score = one.weight * one.question.score_tensor(run)
            total = total.to(score) + score
        return total

    def rows(self) -> int:
        """Rows of one run that fit into the default memory."""
        return min(one.question.rows_within(self.model) for one in self.asked)


def ask(
    model: HookedModel,
    prompt: Fact | str,
    *,
    answer: Answer = None,
    metric: Metric = "logprob",
    prepend_bos: bool | None = None,
) -> AskedPrompt:
    """Tokenise a prompt with what is asked of it.

    Args:
        answer: None is the fact's target, and for a text the model's own top token, as "predicted" is for
            both; else an exact continuation, or a `Contrast` of two.

    Raises:
        InputError: the prompt is neither a fact nor text, or the metric is unknown.
        TextError: the prompt or the answer cannot be tokenised as asked, or is too long.

    Example:
        >>> ask(model, "Paris is in").record["answer_source"]
        'predicted'
    """
    require_hooked(model)
    if not isinstance(prompt, (Fact, str)):
        raise InputError(f"prompt: expected a Fact or a text, got {type(prompt).__name__}.")
    own = prompt.target if isinstance(prompt, Fact) else None
    if answer is None and own is None and metric != "neg_kl":
        answer = PREDICTED
    target = Target.checked(answer, own=own, metric=metric, answer_tokens=None)

    def encoded_with(text: str) -> EncodedPrompt:
        if isinstance(prompt, Fact):
            return encode_fact(model, prompt, target=text, prepend_bos=prepend_bos)
        return encode(model, prompt, target=text, prepend_bos=prepend_bos)

    asked = target.asked(model, target.encoded(encoded_with))
    encoded = asked[0].question.encoded
    record = {
        "fact": prompt.to_dict() if isinstance(prompt, Fact) else None,
        "prompt": prompt.prompt if isinstance(prompt, Fact) else prompt,
        **target.record(asked),
        "prepend_bos": encoded.prepend_bos,
        "active_edits": sorted(active_base(model)),
    }
    return AskedPrompt(model, encoded, asked, record)


def _replaced(embeddings: Float[Tensor, "row token d_model"]) -> Any:
    def put(state: Tensor, hook: Any) -> Tensor:
        # A run may hold the answer's tokens as well: they keep their own.
        return torch.cat([embeddings.to(state), state[:, embeddings.shape[1] :]], dim=1)

    return put
