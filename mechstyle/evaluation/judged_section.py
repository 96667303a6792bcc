"""The section [judged] of a suite file: which judge reads what the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.judging import (
    ClassifierJudge,
    Judge,
    JudgedGenerations,
    LLMJudge,
    TargetJudge,
)
from mechstyle.evaluation.judging.rule_judge import labelled_targets
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.section import Section, Sources

__all__ = ["JudgedSection"]


class JudgedSection(Section):
    """[judged]: by rules (the default), by a classifier of one's own, or by a language model behind a server.

    Only ``judge = "llm"`` sends texts anywhere, and that may cost money.
    """

    judge: Literal["target", "classifier", "llm"] = "target"
    wanted: list[str] = Field(default_factory=lambda: ["new"], min_length=1)
    max_length: int = 40
    top_k: int = 1
    file: str | None = None
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    prompt: str = "edit_success"
    prices: list[float] | None = Field(default=None, min_length=2, max_length=2)
    max_cost: float | None = None

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``JudgedGenerations``."""
        return JudgedGenerations(
            self._judge(sources), tuple(self.wanted), max_length=self.max_length, top_k=self.top_k
        )

    def _judge(self, sources: Sources) -> Judge:
        if self.judge == "target":
            texts, labels = labelled_targets()
            return TargetJudge().measured_on(texts, labels)
        if self.judge == "classifier":
            if self.file is None:
                raise InputError(
                    '[judged] file: expected a saved ClassifierJudge, such as file = "judge.st".'
                )
            return ClassifierJudge.load(sources.folder / self.file)
        if self.model is None:
            raise InputError('[judged] model: expected the name that the server knows, such as model = "m".')
        prompt = self.prompt if "." not in self.prompt else sources.folder / self.prompt
        return LLMJudge(
            self.model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            prompt=prompt,
            prices=None if self.prices is None else (self.prices[0], self.prices[1]),
            max_cost=self.max_cost,
        )
