"""Figures of single traces show every value, at its place, and no text of a token becomes markup."""

from __future__ import annotations

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

import mechstyle as ms
from mechstyle.errors import InputError
from tests.plot.planted import grid, planted_trace

HOSTILE = ("</script>", "<b>", " a&b", "\n")


def _maps(figure: go.Figure) -> list[go.Heatmap]:
    return [one for one in figure.data if one.type == "heatmap" and one.visible is not False]


def test_heads_are_drawn_layer_by_head_at_the_token_with_the_largest_effect() -> None:
    effect = np.full((4, 5, 3), 0.01)
    effect[1, 3, 2] = 0.8
    figure = ms.plot.trace(planted_trace({"heads": effect}))
    (shown,) = _maps(figure)
    np.testing.assert_allclose(shown.z, effect[1].T)
    assert figure.layout.updatemenus[0].active == 1
    assert list(shown.x) == [0, 1, 2, 3, 4]
    assert figure.layout.yaxis.title.text == "head"


def test_the_menu_shows_each_token_and_leaves_the_other_panels() -> None:
    effects = {"resid": grid(4, 5), "heads": grid(4, 5, 3), "k": grid(4, 5, 2)}
    figure = ms.plot.trace(planted_trace(effects), token="last prompt token")
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons][3] == "at “ the” (last prompt token)"
    assert figure.layout.updatemenus[0].active == 3
    for token, button in enumerate(buttons):
        figure.update_traces(visible=True)
        for panel, visible in zip(figure.data, button.args[0]["visible"], strict=True):
            panel.visible = visible
        resid, head, keys = _maps(figure)
        np.testing.assert_allclose(resid.z, effects["resid"])
        np.testing.assert_allclose(head.z, effects["heads"][token].T)
        np.testing.assert_allclose(keys.z, effects["k"][token].T)


def test_all_tokens_of_a_kind_with_heads_share_the_colour_scale() -> None:
    effect = grid(4, 5, 3)
    figure = ms.plot.trace(planted_trace({"heads": effect}))
    for panel in figure.data:
        assert (panel.zmin, panel.zmax) == pytest.approx((effect.min(), effect.max()))


def test_neurons_are_the_strongest_of_either_sign_in_falling_order() -> None:
    effect = np.zeros((4, 100))
    effect[2, [7, 50, 99]] = 0.5, -0.7, 0.1
    figure = ms.plot.trace(planted_trace({"neurons": effect}))
    (bars,) = [one for one in figure.data if one.visible is not False]
    assert bars.y[:3] == ("50", "7", "99")
    np.testing.assert_allclose(bars.x[:3], [-0.7, 0.5, 0.1])
    assert len(bars.x) == 16
    assert figure.layout.xaxis.title.text == "effect at layer 2"
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis.type) == ("neuron", "category")


def test_a_set_of_tokens_needs_no_menu() -> None:
    trace = planted_trace({"heads": grid(1, 5, 3)}, tokens=["all tokens"], roles=["all tokens"])
    figure = ms.plot.trace(trace)
    assert not figure.layout.updatemenus
    assert "“all tokens”<br>layer 0" in figure.data[0].text[0][0]


@pytest.mark.parametrize("n_tokens", [1, 2, 40])
def test_any_number_of_tokens_is_drawn(n_tokens: int) -> None:
    effects = {"resid": grid(n_tokens, 3), "heads": grid(n_tokens, 3, 2)}
    trace = planted_trace(
        effects, tokens=[f"t{i}" for i in range(n_tokens)], roles=["further tokens"] * n_tokens
    )
    figure = ms.plot.trace(trace)
    assert len(_maps(figure)) == 2
    assert len(figure.layout.yaxis.ticktext) == n_tokens
    assert figure.layout.height > 21 * n_tokens


def test_tokens_are_escaped_wherever_they_are_shown() -> None:
    effects = {"resid": grid(4, 3), "heads": grid(4, 3, 2), "neurons": grid(4, 20)}
    shown = json.dumps(json.loads(ms.plot.trace(planted_trace(effects, tokens=HOSTILE)).to_json()))
    for raw in ("</script", "“<b>"):
        assert raw not in shown
    # As a label, in the texts of both maps, of every bar, and in the menu.
    assert shown.count("&lt;/script&gt;") == 1 + 3 + 3 * 2 + 1 + 1


def test_kinds_and_tokens_that_are_not_there_are_refused() -> None:
    trace = planted_trace({"resid": grid(4, 3), "heads": grid(4, 3, 2)})
    with pytest.raises(InputError, match=r"kinds: expected some of resid, heads, got \['mlp'\]"):
        ms.plot.trace(trace, kinds=["mlp"])
    with pytest.raises(InputError, match="token: expected an index from 0 to 3 or a role, got 9"):
        ms.plot.trace(trace, token=9)
    with pytest.raises(InputError, match="role: expected one of"):
        ms.plot.trace(trace, token="bos")


def test_small_maps_show_every_fact_on_one_scale_with_its_own_title() -> None:
    first, second = grid(4, 3), 3 * grid(2, 3, seed=1)
    traces = [
        planted_trace({"mlp": first, "resid": grid(4, 3, seed=5)}),
        planted_trace(
            {"mlp": second},
            tokens=["<i>", " b"],
            roles=["last subject token", "last prompt token"],
            fact={"subject": "<i>", "template": "{}", "target": " b"},
            answer=" </script>",
            knows=False,
        ),
    ]
    figure = ms.plot.facts(traces)
    for panel, values in zip(figure.data, (first, second), strict=True):
        np.testing.assert_allclose(panel.z, values)
        assert panel.zmax == max(first.max(), second.max())
        assert panel.zmin == min(first.min(), second.min())
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["Miles Davis → trumpet", "&lt;i&gt; → &lt;/script&gt; (not known)"]


def test_what_small_maps_leave_out_is_said() -> None:
    figure = ms.plot.facts([planted_trace({"mlp": grid(4, 3)})] * 5, most=4)
    assert len(figure.data) == 4
    assert figure.layout.annotations[-1].text == "4 of 5 facts"


def test_small_maps_refuse_what_they_cannot_draw() -> None:
    one, other = planted_trace({"mlp": grid(4, 3)}), planted_trace({"heads": grid(4, 3, 2)})
    with pytest.raises(InputError, match="every trace has over tokens and layers"):
        ms.plot.facts([one, other])
    with pytest.raises(InputError, match="got 'heads'"):
        ms.plot.facts([other], kind="heads")
    with pytest.raises(InputError, match="got 0 traces"):
        ms.plot.facts([])


def _paths(**settings: object) -> ms.Trace:
    effects = {"heads": grid(2, 5, 3), "mlp": grid(2, 5, seed=1)}
    names = ["subject", "<end>"]
    return planted_trace(effects, tokens=names, roles=names, samples=1, **settings)


def test_paths_show_heads_and_below_them_mlps_for_each_set_of_tokens() -> None:
    trace = _paths(receivers=["q of head 6 of layer 9 <b>"])
    figure = ms.plot.paths(trace)
    heads, mlps = trace.indirect_effect("heads").values, trace.indirect_effect("mlp").values
    for place, panel in enumerate(figure.data):
        np.testing.assert_allclose(panel.z[:3], heads[place].T)
        np.testing.assert_allclose(panel.z[3], mlps[place])
    assert list(figure.layout.yaxis.ticktext) == ["head 0", "head 1", "head 2", "MLP"]
    assert [note.text for note in figure.layout.annotations] == ["subject", "&lt;end&gt;"]
    assert figure.layout.title.text == "senders to q of head 6 of layer 9 &lt;b&gt;"
    assert figure.data[0].zmax == figure.data[1].zmax == max(heads.max(), mlps.max())


def test_paths_refuse_a_trace_without_receivers() -> None:
    with pytest.raises(InputError, match="expected one that path_patching made"):
        ms.plot.paths(_paths())


def test_a_view_of_heads_holds_every_effect_of_every_head() -> None:
    effect = grid(4, 5, 3)
    body = ms.plot.heads(planted_trace({"heads": effect}, tokens=HOSTILE), name="h").body
    props = json.loads(re.search(r"TextNeuronActivations, (.*)\)</script>", body).group(1))
    np.testing.assert_allclose(props["activations"], effect, atol=1e-12)
    assert props["tokens"] == list(HOSTILE)
    assert (props["firstDimensionName"], props["secondDimensionName"]) == ("Layer", "Head")
    assert body.count("</script>") == 1
    with pytest.raises(InputError, match="expected one with heads, got 'mlp'"):
        ms.plot.heads(planted_trace({"mlp": effect[..., 0]}), kind="mlp")
