"""The editors that leave weights alone: an edit cache, and an in-context edit."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

from mechstyle.editing.application import active_ids
from mechstyle.editing.memory import EditCache, InContextEdit, last_states
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, provenance, require_hooked, resolve_bos
from mechstyle.requests import check_requests
from mechstyle.sites import check_layer
from mechstyle.tokens import encode

__all__ = ["EPSILON", "TEMPLATE", "edit_cache", "in_context_edit"]

EPSILON = 1e-3
"""How often a cache lets the model speak for itself; it bounds every log-probability from below."""
TEMPLATE = "Imagine that {}. "
"""What an in-context edit says of each new fact."""


def edit_cache(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    threshold: float | None = None,
    layer: int | None = None,
    epsilon: float = EPSILON,
    prepend_bos: bool | None = None,
) -> EditCache:
    """Keep the new answers beside the model, to be looked up by the prompt: the simplest baseline.

    Args:
        requests: with ``phrasings``, each of which is an entry.
        threshold: cosine from which another prompt counts as the same; None looks up exact prompts only.
        layer: whose output at the prompt's last token is compared; needed with a threshold.
        epsilon: probability with which a prompt that is found is answered by the model itself, so that other
            continuations keep a probability above 0.
        prepend_bos: None means the model's default.

    Raises:
        InputError: no requests, two that contradict each other, or only one of ``threshold`` and ``layer``.
        RangeError: ``threshold`` not in [-1, 1], ``epsilon`` not in (0, 0.5), or the layer is out of range.
        TextError: a prompt cannot be tokenised.

    The look-up is that of Mitchell et al. 2022 (SERAC), section 3, without learned parts.

    >>> cache = edit_cache(model, requests, threshold=0.95, layer=4)  # doctest: +SKIP
    >>> evaluate(model, requests, edits=cache)  # doctest: +SKIP
    """
    require_hooked(model)
    given = check_requests(requests)
    _check_number("epsilon", epsilon, 0 < epsilon < 0.5 if _is_number(epsilon) else False, "in (0, 0.5)")
    if (threshold is None) != (layer is None):
        raise InputError(
            f"threshold, layer: expected both, for a look-up by likeness, or neither, for exact prompts; "
            f"got threshold={threshold!r} and layer={layer!r}."
        )
    if threshold is not None:
        inside = -1 <= threshold <= 1 if _is_number(threshold) else False
        _check_number("threshold", threshold, inside, "in [-1, 1]")
    place = None if layer is None else check_layer(layer, int(model.cfg.n_layers))
    bos, origin = resolve_bos(model, prepend_bos), provenance(model)
    entries = {fact.prompt: request.new_target for request in given for fact in request.phrased}
    prompts = tuple(entries)
    tokens = tuple(tuple(encode(model, one, prepend_bos=False).ids.tolist()) for one in prompts)
    states = None if place is None else last_states(model, prompts, layer=place, prepend_bos=bos)
    settings = {
        "method": "edit_cache",
        "threshold": threshold,
        "layer": place,
        "epsilon": epsilon,
        "entries": len(prompts),
        "prepend_bos": bos,
        "on_top_of": list(active_ids(model)),
    }
    return EditCache(
        requests=given,
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        prompts=prompts,
        answers=tuple(entries.values()),
        tokens=tokens,
        epsilon=float(epsilon),
        layer=place,
        threshold=None if threshold is None else float(threshold),
        states=states,
    )


def in_context_edit(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    template: str = TEMPLATE,
    prepend_bos: bool | None = None,
) -> InContextEdit:
    """Tell the model the new facts before every prompt.

    All statements stand before each prompt, so one edit of many requests soon fills the context: make one of
    each request, and give ``evaluate`` the list.

    Args:
        template: the sentence for each fact; ``{}`` becomes its prompt with the new target.
        prepend_bos: None means the model's default.

    Raises:
        InputError: no requests, or two that contradict each other.
        TextError: the template does not hold ``{}`` exactly once, or the statements and a request's own
            prompt do not fit into the model's context.

    After Zheng et al. 2023 (Can We Edit Factual Knowledge by In-Context Learning?), without demonstrations.

    >>> in_context_edit(model, request).context  # doctest: +SKIP
    'Imagine that Miles Davis plays the guitar. '
    """
    require_hooked(model)
    given = check_requests(requests)
    if not isinstance(template, str) or template.count("{}") != 1:
        raise TextError(f"template: expected text with '{{}}' exactly once, got {template!r}.")
    bos, origin = resolve_bos(model, prepend_bos), provenance(model)
    settings = {
        "method": "in_context_edit",
        "template": template,
        "prepend_bos": bos,
        "on_top_of": list(active_ids(model)),
    }
    edit = InContextEdit(
        requests=given,
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        template=template,
    )
    for index, request in enumerate(given):
        for target in (request.new_target, request.fact.target):
            try:
                encode(model, edit.context + request.fact.prompt, target=target, prepend_bos=bos)
            except TextError as error:
                raise TextError(
                    f"requests[{index}]: {request.fact.prompt!r} behind {len(given)} statement(s): {error} "
                    "With fewer requests in one edit the context is shorter."
                ) from error
    return edit


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: object, inside: bool, wanted: str) -> None:
    if not inside:
        raise RangeError(f"{name}: expected a number {wanted}, got {value!r}.")
