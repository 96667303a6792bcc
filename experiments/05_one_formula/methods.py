"""Every method of the experiment, called in the same words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import mechstyle as ms
from mechstyle.editing.batch_methods import MEMIT_OPTIONS
from mechstyle.editing.targets import optimise_targets
from mechstyle.models import HookedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from on_organism import Edit, alphaedit_with, kept_targets, prepared

Editor = Callable[..., Edit]


def editors(
    model: HookedModel, requests: Sequence[ms.EditRequest], config: Mapping[str, Any], out: Path
) -> dict[str, Editor]:
    """Editors that take which requests, which layers, and own settings; targets are searched once for all."""
    moments, contexts = prepared(model, config, out)
    search = partial(optimise_targets, model, requests, layer=config["layers"][-1], contexts=contexts)
    mlp = kept_targets(out / "targets-mlp.safetensors", partial(search, kind="mlp"))
    resid = kept_targets(
        out / "targets-resid.safetensors", partial(search, kind="resid", options=MEMIT_OPTIONS)
    )
    preserve = ms.organisms.texts(config["model"], n=config["preserved"], seed=config["seed"] + 1)
    taught = {(fact.subject, fact.relation): fact.taught for fact in ms.organisms.facts(config["model"])}
    closed = {"covariance": moments, "contexts": contexts}

    def rome(batch: slice, layers: list[int], targets: Sequence[Any] = mlp, **own: Any) -> Edit:
        return ms.rome(model, requests[batch], layer=layers, targets=targets[batch], **closed, **own)

    def many(editor: Editor, batch: slice, layers: list[int], **own: Any) -> Edit:
        return editor(model, requests[batch], layers=layers, targets=resid[batch], **closed, **own)

    def finetune(batch: slice, layers: list[int], **own: Any) -> Edit:
        options = ms.FinetuneOptions(preserve_batch_size=2, **own)
        texts = preserve if own.get("kl_factor") else ()
        return ms.finetune(model, requests[batch], layers=layers, options=options, preserve=texts)

    @cache
    def found(number: int) -> ms.KnowledgeNeurons:
        """In any layer, with the templates in which the model read the fact."""
        fact = requests[number].fact
        return ms.knowledge_neurons(model, fact, templates=taught[fact.subject, str(fact.relation)])

    def neurons(batch: slice, layers: list[int], **own: Any) -> Edit:
        numbers = range(len(requests))[batch]
        return ms.neuron_edit(model, requests[batch], neurons=[found(one) for one in numbers], **own)

    def beside(editor: Editor, batch: slice, layers: list[int], **own: Any) -> Edit:
        return editor(model, requests[batch], **own)

    return {
        "rome": rome,
        "rome, targets of memit": partial(rome, targets=resid),
        "emmet": partial(many, ms.emmet),
        "memit": partial(many, ms.memit),
        "alphaedit": partial(many, alphaedit_with(moments)),
        "finetune": finetune,
        "neurons": neurons,
        "cache": partial(beside, ms.edit_cache),
        "context": partial(beside, ms.in_context_edit),
    }
