"""Trace many facts with the same settings, resumably, and leave out those that the model does not know."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.progress import track

from mechstyle.answers import score_answers
from mechstyle.errors import (
    FileError,
    InputError,
    MechstyleError,
    ModelError,
    NonFiniteError,
    TextError,
    WorkError,
)
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, require_hooked
from mechstyle.outputs import output_folder
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.grid import token_sets
from mechstyle.tracing.manifest import Line, Manifest, options_of, settings_of
from mechstyle.tracing.targets import PREDICTED, Target
from mechstyle.tracing.trace import Trace
from mechstyle.tracing.trace_set import TraceSet

__all__ = ["Tracer", "trace_facts"]

Tracer = Callable[..., Trace]
"""Called with a model and a fact; with `seed` too where it has such an option."""

TWICE: Final = "given twice"
UNTOKENISED: Final = "cannot be tokenised"
UNKNOWN: Final = "not known"
PLACELESS: Final = "has no such tokens"
UNTRACED: Final = "cannot be corrupted"
NOT_FINITE: Final = "not finite"
REFUSED: Final = "cannot be traced"
ANSWERED_BY_ITSELF: Final = (PREDICTED, "contrast")
"""Sources of answers that need no knowledge: they are predicted, or a comparison of two."""
CHECKED_AT_ONCE: Final = 64
"""Facts in one forward pass of the check of knowledge."""


def trace_facts(
    model: HookedModel,
    facts: Sequence[Fact],
    *,
    tracer: Tracer = causal_trace,
    folder: str | os.PathLike[str] | None = None,
    skip_unknown: bool = True,
    progress: bool = False,
) -> TraceSet:
    """Trace many facts with the same settings; those that the model does not know are left out and counted.

    A model knows a fact when the target is its greedy continuation of the prompt (Meng et al. 2022, 2.1);
    that is checked before anything is traced, many facts at once. Facts that cannot be tokenised or corrupted
    as asked, that have none of the tokens of a set, or whose metric is not finite are left out too; what the
    tracer refuses before it has traced any fact is an error at once. Every fact has draws of its own: its
    trace's seed follows from the tracer's and from the fact, so that the noise of a draw is not the same in
    all facts, and does not depend on the others in the list.

    Args:
        tracer: a function of a model and a fact. Give options by `functools.partial`, so that they are known:
            its seed, and its answer, which decides what is to be known (nothing is with "predicted", or with
            a Contrast).
        folder: one netCDF file a fact is written there, and `manifest.json`. A run that was killed goes on
            with the same call and gives the same bits; it loses the fact in flight at most. Facts of an
            earlier call stay in the folder. Several processes may share a folder, each with facts of its own:
            each adds to the manifest that it finds, at its start and at its end. Should two write in the same
            instant, one's facts are missing from it until that one ends, or is called again. Memory does not
            depend on the number of facts; without a folder whole traces are kept in memory.
        skip_unknown: False traces unknown facts as well.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no facts, or none that can be traced; a tracer that cannot be called so, or that refuses
            its options; a folder of another model or of other settings, of which the first one is named.
        FileError: the folder cannot be written.

    Example:
        >>> tracer = functools.partial(causal_trace, kinds=("resid", "mlp"), samples=4)
        >>> traces = trace_facts(model, facts, tracer=tracer, folder="traces")
        >>> len(traces), len(traces.skipped)
        (212, 38)
    """
    require_hooked(model)
    options = options_of(tracer)
    facts = _checked(facts, options)
    settings = settings_of(model, tracer)
    place = None if folder is None else _opened(Path(folder), settings)
    lines = _sorted_out(model, facts, options, settings, skip_unknown=skip_unknown, progress=progress)
    chosen = [index for index, line in enumerate(lines) if line.reason is None]
    if not chosen:
        raise InputError(_none_left(lines))
    traces: dict[int, Trace | Path] = {}
    console = Console(stderr=True)
    for index in track(chosen, "tracing facts", console=console, disable=not progress, transient=True):
        fact, path = facts[index], None if place is None else place / str(lines[index].file)
        found: Trace | Path | None = path if path is not None and _is_trace_of(path, fact) else None
        try:
            found = found or _traced(model, fact, tracer, options)
        except (InputError, WorkError) as error:
            lines[index] = Line(fact, None, _reason(error, works=bool(traces)), str(error))
            continue
        # The folder gets its manifest once the options are known to work, and before its first trace.
        if place is not None and not traces:
            _write(lines, settings, place)
        if isinstance(found, Trace) and path is not None:
            found.save(path)
            found = path
        traces[index] = found
    if not traces:
        raise InputError(_none_left(lines))
    if place is not None:
        _write(lines, settings, place)
    return TraceSet(
        tuple(facts[index] for index in traces),
        MappingProxyType(settings),
        tuple(traces.values()),
        tuple(line for line in lines if line.reason is not None),
    )


def _checked(facts: Sequence[Fact], options: Mapping[str, Any]) -> list[Fact]:
    """The facts as a list, once answer and metric are known to go together."""
    if isinstance(facts, (str, Fact)) or not isinstance(facts, Iterable):
        raise InputError(f"facts: expected a list of facts, got one {type(facts).__name__}; pass [fact].")
    listed = list(facts)
    for index, fact in enumerate(listed):
        if not isinstance(fact, Fact):
            raise InputError(f"facts: expected facts, got {type(fact).__name__} at place {index}.")
    if not listed:
        raise InputError("facts: expected at least one fact, got none.")
    _target(listed[0], options)
    return listed


def _opened(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The folder, made if need be, once its manifest is known to agree."""
    Manifest(settings, ()).merged(folder)
    return output_folder(folder)


def _write(lines: Sequence[Line], settings: Mapping[str, Any], folder: Path) -> None:
    """Write what became of the facts; what other calls have written of other facts stays."""
    Manifest(settings, tuple(lines)).merged(folder).write(folder)


def _sorted_out(
    model: HookedModel,
    facts: Sequence[Fact],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    skip_unknown: bool,
    progress: bool,
) -> list[Line]:
    """A line for each fact: the file of its trace, or why there will be none."""
    lines: list[Line] = []
    asked: dict[int, EncodedPrompt] = {}
    seen: set[Fact] = set()
    head = _digest(settings)
    for index, fact in enumerate(facts):
        # The name says the settings too: a trace that was made in another way is not taken for this one.
        line = Line(fact, file=f"{_digest([head, fact.to_dict()])[:16]}.nc")
        if fact in seen:
            line = Line(fact, None, TWICE, "It is in the list before.")
        else:
            try:
                encoded = _encoded(model, fact, options)
                line = _placed(line, encoded, options)
            except TextError as error:
                line = Line(fact, None, UNTOKENISED, str(error))
            else:
                asked |= {index: encoded} if line.reason is None else {}
        lines.append(line)
        seen.add(fact)
    if not asked or not skip_unknown or _target(facts[0], options).source in ANSWERED_BY_ITSELF:
        return lines
    scores = score_answers(model, list(asked.values()), batch_size=CHECKED_AT_ONCE, progress=progress)
    for index, score in zip(asked, scores, strict=True):
        if not score.exact:
            detail = (
                f"The model's own continuation is another one; this one's log-probability: {score.logp:.3g}."
            )
            lines[index] = Line(facts[index], None, UNKNOWN, detail)
    return lines


def _target(fact: Fact, options: Mapping[str, Any]) -> Target:
    """What the tracer asks for, as it will check it itself."""
    return Target.checked(
        options.get("answer"),
        own=fact.target,
        metric=options.get("metric", "prob"),
        answer_tokens=options.get("answer_tokens"),
    )


def _encoded(model: HookedModel, fact: Fact, options: Mapping[str, Any]) -> EncodedPrompt:
    """The prompt with what is scored; alone where the model's own answer is."""
    target, bos = _target(fact, options), options.get("prepend_bos")
    found = target.encoded(lambda text: encode_fact(model, fact, target=text, prepend_bos=bos))
    return found[0] if target.texts is None else target.asked(model, found)[0].question.encoded


def _placed(line: Line, encoded: EncodedPrompt, options: Mapping[str, Any]) -> Line:
    """The same line, or why the prompt lacks the sets of tokens that the tracer restores."""
    try:
        token_sets(options.get("tokens"), encoded)
    except InputError as error:
        return Line(line.fact, None, PLACELESS, str(error))
    return line


def _reason(error: MechstyleError, *, works: bool) -> str:
    """Why one fact is left out; what may hold for all facts is raised.

    Args:
        works: whether the tracer has traced another fact.
    """
    if isinstance(error, TextError):
        return UNTRACED
    if isinstance(error, WorkError) or (works and isinstance(error, NonFiniteError)):
        return NOT_FINITE
    if works and not isinstance(error, (FileError, ModelError)):
        return REFUSED
    raise error


def _traced(model: HookedModel, fact: Fact, tracer: Tracer, options: Mapping[str, Any]) -> Trace:
    seed = options.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        return tracer(model, fact)
    own = int(_digest([seed, fact.to_dict()])[:8], 16)
    return tracer(model, fact, seed=own)


def _is_trace_of(path: Path, fact: Fact) -> bool:
    """Whether the file is there and whole; a damaged one is made again."""
    try:
        return path.is_file() and Trace.load(path).settings.get("fact") == fact.to_dict()
    except FileError:
        return False


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _none_left(lines: Sequence[Line]) -> str:
    counts = Counter(line.reason for line in lines if line.reason is not None)
    first = next(line for line in lines if line.reason is not None)
    return (
        f"facts: none of the {len(lines)} can be traced: "
        f"{', '.join(f'{number} {reason}' for reason, number in counts.most_common())}. "
        f"The first one, {first.fact.prompt!r}: {first.detail}"
        + (" skip_unknown=False traces unknown facts too." if UNKNOWN in counts else "")
    )
