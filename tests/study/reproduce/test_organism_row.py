"""The organism's row: a few requests in every run of the tests, all of them in the slow one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformer_lens import HookedTransformer

from mechstyle.study.reproduce.manifest import read_manifest
from mechstyle.study.reproduce.run import reproduce


def test_the_first_facts_of_the_card_can_be_edited_again(organism: HookedTransformer) -> None:
    wanted = read_manifest("organism-m-rome")
    fewer = replace(wanted, keys=replace(wanted.keys, n_keys=6000))  # to save time
    found = reproduce(fewer, limit=2, model=organism)
    table = found.table.set_index("metric")
    assert list(table["verdict"]) == ["cannot tell"] * 4
    assert table.loc["efficacy", "note"] == "on 2 of 50 records; so far inside the tolerance"
    assert table.loc["efficacy", "ours"] == 1.0


@pytest.mark.slow
def test_the_row_of_the_card_is_reproduced(organism: HookedTransformer) -> None:
    found = reproduce("organism-m-rome", model=organism)
    assert list(found.table["verdict"]) == ["reproduced"] * 4
    assert list(found.table["note"]) == [""] * 4
    assert found.table["difference"].abs().max() < 0.011, "nearly each request as it was then"
