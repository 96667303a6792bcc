"""Do a model's beliefs fit together after an edit: two answers of its own, and the one that they imply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mechstyle.beliefs import BeliefChain
from mechstyle.cases import Case, Question
from mechstyle.errors import InputError, TextError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.intervals import COMPARISON
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.evaluation.probes import Probe, question_probe
from mechstyle.evaluation.readings import read_under
from mechstyle.evaluation.request_scores import Reduce, require_reduce
from mechstyle.models import HookedModel

__all__ = ["BeliefConsistency"]

SLOT: Final = "{}"
TIE: Final = 1e-4
"""Nats; verdicts that are closer than this are none, and count half."""


@dataclass(frozen=True)
class BeliefConsistency:
    """Whether a model's answers imply each other, whatever they are, as a measure of a suite.

    The model chooses its answer to the first question, to the second one about that answer, and to the
    compound question, each time the most probable candidate. A *chain* is consistent when the last two
    agree. A model that says the same whatever it is asked agrees as well, so ``gain`` takes off how often the
    compound's answer is what *other* answers to the first question would imply: it is 0 for that model, and 1
    for one whose answers hang together.

    *Yes-no* asks whether the statement with the implied answer is true, and the statement with another
    candidate (the first one that is not implied). A verdict is yes when ``logp(yes) - logp(no)`` is larger
    for the question than for its negation, which takes off a taste for yes, or for the shorter word. The
    score is the mean of both statements: 1/2 for a model that always says the same. ``uncalibrated`` goes
    without the negation.

    Args:
        chains: each belongs to the cases whose edited prompt is the chain's first one.
        reduce: a candidate's log-probability: "mean" over its tokens, or their "sum".
        question: what is asked of a statement, which stands in the place of ``{}``.
        negation: what is asked for the contrary.
        yes: an answer to both; ``no`` likewise.

    Raises:
        InputError: no chains, or ``reduce`` is neither "mean" nor "sum".
        TextError: ``question`` or ``negation`` does not hold ``{}`` once, or both answers are the same.

    Example:
        >>> chains = [chain for case in cases for chain in belief_chains("organism-m", case.request)]
        >>> BeliefConsistency(tuple(chains)).name  # doctest: +SKIP
        'beliefs'
    """

    chains: tuple[BeliefChain, ...]
    reduce: Reduce = "mean"
    question: str = "Is it true that {}? Answer:"
    negation: str = "Is it false that {}? Answer:"
    yes: str = " yes"
    no: str = " no"

    def __post_init__(self) -> None:
        require_reduce(self.reduce)
        object.__setattr__(self, "chains", tuple(self.chains))
        if not self.chains or not all(isinstance(one, BeliefChain) for one in self.chains):
            raise InputError("chains: expected one or more BeliefChains, got " + repr(self.chains)[:80] + ".")
        for name in ("question", "negation"):
            if getattr(self, name).count(SLOT) != 1:
                raise TextError(
                    f"{name}: expected '{SLOT}' exactly once, where the statement stands, got "
                    f"{getattr(self, name)!r}; write for example 'Is it true that {SLOT}? Answer:'."
                )
        if self.yes == self.no:
            raise TextError(f"no: expected another answer than yes={self.yes!r}, got the same.")

    @property
    def name(self) -> str:
        """The table's name."""
        return "beliefs"

    @property
    def about(self) -> About:
        """Each request is asked about."""
        return "requests"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Consistency of chains, the same above what others imply, and consistency of yes and no."""
        return (
            Metric("belief_consistency", "consistent", COMPARISON, "chain"),
            Metric("belief_consistency_gain", "gain", COMPARISON, "chain"),
            Metric("yes_no_consistency", "consistent", COMPARISON, "yes-no"),
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "chains": [chain.to_dict() for chain in self.chains],
            "reduce": self.reduce,
            "question": self.question,
            "negation": self.negation,
            "yes": self.yes,
            "no": self.no,
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every question that may be asked.

        Raises:
            InputError: a chain belongs to no case.
            TextError: a prompt does not fit the tokenizer or the context; case and prompt are named.
        """
        own: dict[str, list[BeliefChain]] = {}
        for chain in self.chains:
            own.setdefault(chain.first.prompt, []).append(chain)
        if foreign := own.keys() - {case.request.fact.prompt for case in cases}:
            raise InputError(
                f"chains: expected a case that edits {min(foreign)!r}, a chain's first prompt, got none; "
                "leave the chain out, or ask first what a request edits."
            )
        asked = [
            [
                self._asked(model, index, place, case, chain, conditions.prepend_bos)
                for place, chain in enumerate(own.get(case.request.fact.prompt, ()))
            ]
            for index, case in enumerate(cases)
        ]

        def read(edit: AnyEdit | None, chosen: Sequence[int]) -> list[Row]:
            links = [link for index in chosen for link in asked[index]]
            ask = _Ask(model, edit, conditions, self.reduce)
            answers = ask.logps([probe for link in links for probe in link.open])
            believed = [_Believed(link, [next(answers) for _ in link.open]) for link in links]
            stated = [one for one in believed if one.link.stated]
            verdicts = ask.logps([probe for one in stated for probe in one.statements()])
            rows = [one.chain_row() for one in believed]
            return rows + [one.yes_no_row([next(verdicts) for _ in range(4)]) for one in stated]

        return read

    def _asked(
        self, model: HookedModel, index: int, place: int, case: Case, chain: BeliefChain, bos: bool
    ) -> _Link:
        def probe(prompt: str, candidates: Sequence[str]) -> Probe:
            question = Question("belief", "hard in", prompt, tuple(candidates))
            return question_probe(model, index, case.request, question, prepend_bos=bos)

        seconds = [probe(chain.about(one), chain.second.candidates) for one in chain.first.candidates]
        stated = [] if chain.statement is None else [
            tuple(
                probe(asked.replace(SLOT, chain.stated(one), 1), (self.yes, self.no))
                for asked in (self.question, self.negation)
            )
            for one in chain.second.candidates
        ]  # fmt: skip
        first = probe(chain.first.prompt, chain.first.candidates)
        compound = probe(chain.compound, chain.second.candidates)
        return _Link(index, place, case, chain, (first, compound, *seconds), tuple(stated))


@dataclass(frozen=True, eq=False)
class _Link:
    """One chain of one case, tokenised.

    Args:
        open: the first question, the compound, and the second one about each of the first one's candidates.
        stated: question and negation of the statement with each candidate of the second question.
    """

    index: int
    place: int
    case: Case
    chain: BeliefChain
    open: tuple[Probe, ...]
    stated: tuple[tuple[Probe, ...], ...]


@dataclass(frozen=True, eq=False)
class _Ask:
    """The model as it now stands."""

    model: HookedModel
    edit: AnyEdit | None
    conditions: Conditions
    reduce: Reduce

    def logps(self, probes: Sequence[Probe]) -> Iterator[list[float]]:
        """Of each probe's candidates, in nats, one probe after the other."""
        if not probes:
            return iter(())
        bos, size = self.conditions.prepend_bos, self.conditions.batch_size
        reading = read_under(self.model, self.edit, probes, texts=(), n_tokens=0, prepend_bos=bos)
        scored = reading.answers(reading.recalled(), batch_size=size)
        return iter(
            [[one.mean_logp if self.reduce == "mean" else one.logp for one in scores] for scores in scored]
        )


@dataclass(frozen=True, eq=False)
class _Believed:
    """What the model says to the open questions of one chain."""

    link: _Link
    logps: Sequence[Sequence[float]]

    @property
    def choices(self) -> list[int]:
        """The most probable candidate of each open question."""
        return [max(range(len(some)), key=some.__getitem__) for some in self.logps]

    @property
    def implied(self) -> int:
        """The candidate of the second question that the first two answers lead to."""
        first, _, *seconds = self.choices
        return seconds[first]

    @property
    def other(self) -> int:
        """The first candidate that is not implied."""
        return 1 if self.implied == 0 else 0

    def statements(self) -> list[Probe]:
        """The implied statement and the other one, each with its negation."""
        return [*self.link.stated[self.implied], *self.link.stated[self.other]]

    def chain_row(self) -> Row:
        first, compound, *seconds = self.choices
        chain = self.link.chain
        others = [second == compound for place, second in enumerate(seconds) if place != first]
        consistent, control = seconds[first] == compound, sum(others) / len(others)
        return {
            **self._about("chain"),
            "first": chain.first.candidates[first],
            "second": chain.second.candidates[seconds[first]],
            "compound": chain.second.candidates[compound],
            "believes_new": chain.first.candidates[first] == self.link.case.request.new_target,
            "consistent": consistent,
            "control": control,
            "gain": consistent - control,
        }

    def yes_no_row(self, logps: Sequence[Sequence[float]]) -> Row:
        implied, against, other, against_other = (yes - no for yes, no in logps)
        candidates = self.link.chain.second.candidates
        return {
            **self._about("yes-no"),
            "implied": candidates[self.implied],
            "other": candidates[self.other],
            "margin_implied": implied - against,
            "margin_other": other - against_other,
            "consistent": (_yes(implied - against) + 1 - _yes(other - against_other)) / 2,
            "uncalibrated": (_yes(implied) + 1 - _yes(other)) / 2,
        }

    def _about(self, kind: str) -> Row:
        fact = self.link.case.request.fact
        return {
            "request": self.link.index,
            "subject": fact.subject,
            "relation": fact.relation,
            "kind": kind,
            "item": f"{self.link.place}: {kind}: {self.link.chain.compound}",
            "prompt": self.link.chain.compound,
        }


def _yes(margin: float) -> float:
    """1 for yes, 0 for no, 1/2 for neither."""
    return 0.5 if abs(margin) < TIE else float(margin > 0)
