"""The embedded organism: its files, ground truth and requests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.organisms.recall import recall

NAME = "organism-m"
pytestmark = pytest.mark.usefixtures("organism")


def test_the_weights_are_half_precision_and_small() -> None:
    from safetensors import safe_open

    paths = [organisms.folder(name) / "model.safetensors" for name in organisms.names()]
    assert sum(path.stat().st_size for path in paths) <= 40 * 2**20
    for path in paths:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (not a dict)
        assert kinds == {"F16"}, path


@pytest.mark.parametrize("name", organisms.names())
def test_the_ground_truth_is_what_the_recipe_builds(name: str) -> None:
    from mechstyle.organisms.recipe import read_recipe

    recipe = read_recipe(organisms.folder(name) / "recipe.toml")
    assert recipe.name == name
    assert tuple(organisms.facts(name)) == organisms.build_world(seed=recipe.world_seed).facts


def test_all_sizes_have_one_tokenizer() -> None:
    files = {(organisms.folder(name) / "tokenizer.json").read_bytes() for name in organisms.names()}
    assert len(files) == 1
    assert len(json.loads(files.pop())["model"]["vocab"]) <= 6000


def test_facts_are_recalled_in_taught_and_in_held_out_templates(organism: HookedTransformer) -> None:
    """Version 2 misses its gate of 97 % (its card says by how much): real ones 99 %, invented ones 91 %."""
    shares = recall(organism, organisms.facts(NAME)[::29]).groupby("split").recalled.mean()
    assert shares["taught"] >= 0.93
    assert shares["held out"] >= 0.90


def test_requests_ask_for_another_object_of_the_same_relation() -> None:
    objects: dict[str, set[str]] = {}
    truth = {}
    for fact in organisms.facts(NAME):
        objects.setdefault(fact.relation, set()).add(f" {fact.object}")
        truth[fact.subject, fact.relation] = fact
    for request in organisms.requests(NAME, n=60, seed=4):
        relation = request.fact.relation
        assert relation is not None
        fact = truth[request.fact.subject, relation]
        assert request.fact.target == f" {fact.object}"
        assert request.new_target in objects[relation] - {request.fact.target}
        assert request.fact.template in fact.taught
        held_out = {template.replace("{}", fact.subject, 1) for template in fact.held_out}
        assert set(request.paraphrases) == held_out
        assert request.neighborhood
        assert {target for _, target in request.neighborhood} == {request.fact.target}
        assert all(request.fact.subject not in prompt.split() for prompt, _ in request.neighborhood)


def test_requests_are_a_function_of_the_seed_and_round_trip_through_json() -> None:
    from mechstyle.facts import EditRequest

    first = organisms.requests(NAME, n=5, seed=1)
    assert first == organisms.requests(NAME, n=5, seed=1) != organisms.requests(NAME, n=5, seed=2)
    assert [EditRequest.from_dict(json.loads(json.dumps(r.to_dict()))) for r in first] == first


@pytest.mark.parametrize("invented", [True, False])
def test_requests_are_of_invented_or_of_real_subjects_where_asked(invented: bool) -> None:
    made = {fact.subject for fact in organisms.facts(NAME) if fact.source == "invented"}
    some = organisms.requests(NAME, n=80, seed=2, invented=invented)
    assert {request.fact.subject in made for request in some} == {invented}
    both = organisms.requests(NAME, n=80, seed=2)
    assert {request.fact.subject in made for request in both} == {True, False}
    for build in (organisms.cases, organisms.ripple_cases):
        cases = build(NAME, n=5, invented=invented)
        assert {case.request.fact.subject in made for case in cases} == {invented}


def test_relations_with_unique_objects_have_no_neighbours_and_are_refused() -> None:
    with pytest.raises(InputError, match="mother"):
        organisms.requests(NAME, n=1, relations=["mother"])


def test_an_unknown_organism_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"no embedded organism is called 'organism-xl'; there are: organism-\w"
    ):
        organisms.facts("organism-xl")


@pytest.mark.parametrize("n", [0, 10**6])
def test_too_few_or_too_many_requests_are_refused(n: int) -> None:
    with pytest.raises(RangeError, match="n must be between 1 and"):
        organisms.requests(NAME, n=n)


def test_texts_mix_facts_and_prose_and_differ_by_seed() -> None:
    documents = organisms.texts(NAME, n=200)
    assert len(documents) == 200
    assert documents == organisms.texts(NAME, n=200) != organisms.texts(NAME, n=200, seed=1)
    with pytest.raises(RangeError, match="n must be at least 1"):
        organisms.texts(NAME, n=0)


@pytest.mark.parametrize("name", organisms.names())
def test_the_reference_subjects_of_the_noise_are_those_of_the_first_world(name: str) -> None:
    """What was measured over them before there were invented subjects stays comparable."""
    subjects = organisms.reference_subjects(name)
    assert subjects[:3] == ["Joseph Brodsky", "Wellington Island", "Lancia Thema"]
    digest = hashlib.sha256("\n".join(subjects).encode()).hexdigest()
    assert digest == "39bbb30ef1aeb88d680580d65675b8d4d3a5da6a3daf9e2c3542c2016990abbf"


def test_an_organism_is_recognised_by_its_weights_and_not_by_its_name(
    organism: HookedTransformer, tmp_path: Path
) -> None:
    from mechstyle.models import export_hf, fingerprint, load_model
    from mechstyle.tracing import reference_sigma

    copy = load_model(export_hf(organism, tmp_path / "copy"))
    assert organisms.with_fingerprint(fingerprint(copy)) == NAME
    assert reference_sigma(copy) == reference_sigma(organism)
    assert organisms.with_fingerprint("0" * 64) is None
