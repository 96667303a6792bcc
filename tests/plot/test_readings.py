"""Lens and saliency are shown cell by cell and token by token, whatever the tokens are."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import xarray as xr
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.plot.style import token_label
from mechstyle.tracing.logit_lens import LogitLens, logit_lens
from mechstyle.tracing.saliency import Saliency, saliency

FACT = Fact("{} plays the", "Miles Davis", " trumpet")


@pytest.fixture
def lens(tiny_model: HookedTransformer) -> LogitLens:
    return logit_lens(tiny_model, FACT, states=("resid", "mlp"))


def test_every_cell_of_the_lens_says_its_top_token_and_the_answers_probability(lens: LogitLens) -> None:
    figure = ms.plot.lens(lens)
    data = lens.data.sel(state="resid").transpose("token", "layer", "rank")
    (cells,) = figure.data
    np.testing.assert_array_equal(cells.z, data["answer_prob"].values)
    assert (cells.zmin, cells.zmax) == (0.0, 1.0)
    assert list(cells.x) == ["embed", "0", "1", "2"]
    for token, layer in np.ndindex(*cells.z.shape):
        top = str(data["top_token"].values[token, layer, 0])
        assert cells.text[token][layer].rstrip("…") in token_label(top)
        assert (
            f"{token_label(top)} {data['top_prob'].values[token, layer, 0]:.3f}"
            in cells.customdata[token][layer]
        )


def test_the_colour_can_be_the_entropy_and_the_state_another(lens: LogitLens) -> None:
    (cells,) = ms.plot.lens(lens, colour="entropy", state="mlp").data
    wanted = lens.data.sel(state="mlp")["entropy"].transpose("token", "layer").values
    np.testing.assert_array_equal(cells.z, wanted)
    assert cells.zmax == np.nanmax(wanted)
    assert all(text == "" for row in cells.text for text in row[:1])  # nothing is added before layer 0


def test_tokens_of_a_lens_are_escaped(lens: LogitLens) -> None:
    changed = lens.data.copy(deep=True)
    changed["top_token"].values[...] = "</script>"
    changed["token_str"].values[...] = "<img>"
    shown = ms.plot.lens(LogitLens(changed))
    assert shown.data[0].text[0][0] == "&lt;/script&gt;"
    assert "&lt;/script&gt; " in shown.data[0].customdata[0][0]
    assert "<img" not in "".join(shown.layout.yaxis.ticktext)
    changed["top_token"].values[...] = "<averylongtoken>"
    assert ms.plot.lens(LogitLens(changed)).data[0].text[0][0] == "&lt;averylo…"


def test_a_lens_refuses_unknown_colours_and_states(lens: LogitLens) -> None:
    with pytest.raises(InputError, match="expected one of answer_prob, entropy, kl, got 'rank'"):
        ms.plot.lens(lens, colour="rank")
    with pytest.raises(InputError, match="expected one of resid, mlp, got 'attn'"):
        ms.plot.lens(lens, state="attn")
    alone = LogitLens(lens.data.isel(state=0))
    with pytest.raises(InputError, match="expected one of resid, got 'mlp'"):
        ms.plot.lens(alone, state="mlp")
    assert ms.plot.lens(alone, state="resid") == ms.plot.lens(lens)
    dropped = LogitLens(
        alone.data.drop_vars("state").assign_attrs(provenance='{"settings": {"states": ["mlp"]}}')
    )
    with pytest.raises(InputError, match="expected one of mlp, got 'resid'"):
        ms.plot.lens(dropped, state="resid")


def _views(body: str) -> list[dict]:
    return [json.loads(found) for found in re.findall(r"ColoredTokens, (.*)\)</script>", body)]


def test_saliency_has_a_line_a_baseline_all_on_one_scale(tiny_model: HookedTransformer) -> None:
    found = saliency(tiny_model, FACT, baseline=("mean", "zero"), steps=4)
    body = ms.plot.saliency(found, name="s").body
    views = _views(body)
    for view, baseline in zip(views, ("mean", "zero"), strict=True):
        np.testing.assert_allclose(view["values"], found.data["score"].sel(baseline=baseline).values)
        assert view["maxValue"] == -view["minValue"] == np.abs(found.data["score"].values).max()
    assert re.findall(r"against (\w+)", body) == ["mean", "zero"]
    assert re.findall(r'id="([^"]+)"', body) == ["s-1", "s-2"]


def test_texts_of_saliency_never_become_markup() -> None:
    data = xr.Dataset(
        {"score": (("baseline", "token"), np.array([[0.0, 0.0]])), "gap": ("baseline", np.array([0.5]))},
        {
            "baseline": np.array(["</p><b>"], dtype=object),
            "token_str": ("token", np.array(["</script>", "<!--"], dtype=object)),
        },
    )
    body = ms.plot.saliency(Saliency(data)).body
    assert body.count("</script>") == 1
    assert "<b>" not in body
    assert "<!--" not in body
    (view,) = _views(body)
    assert view["tokens"] == ["</script>", "<!--"]
    with pytest.raises(InputError, match="letters, digits"):
        ms.plot.saliency(Saliency(data), name='"><b>')
