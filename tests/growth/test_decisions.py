"""Decisions by hand: when, where and by how much a network grows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.growth.decisions import CHANGES, PLACES, DecisionRules, LayerCount, decide

TWO = [LayerCount(128, 9, 100), LayerCount(256, 9, 144)]


@pytest.mark.parametrize(
    ("layers", "rules", "change", "layer", "size"),
    [
        ([LayerCount(128, 9, 108)], {}, "insert", 0, 256),  # the original's first iteration
        ([LayerCount(128, 3, 17)], {}, "none", None, 0),  # 20 / 128: patches only
        ([LayerCount(10, 2, 3)], {}, "none", None, 0),  # a half is not more than a half
        ([LayerCount(10, 2, 4)], {}, "insert", 0, 24),  # 4 x 6
        (TWO, {}, "insert", 1, 256),
        ([LayerCount(20, 8, 8), LayerCount(20, 8, 8)], {}, "insert", 0, 64),  # a tie: the first
        ([LayerCount(128, 9, 119)], {"rule": "count"}, "none", None, 0),  # fewer than 10 high
        ([LayerCount(128, 4, 0), LayerCount(128, 6, 9)], {"rule": "count"}, "insert", 1, 60),
        ([LayerCount(128, 0, 1)], {"rule": "always", "change": "widen"}, "widen", 0, 4),
        ([LayerCount(128, 0, 0)], {"rule": "always", "change": "widen"}, "widen", 0, 1),
        (TWO, {"place": "share"}, "insert", 0, 256),  # 109 / 128 against 153 / 256
        ([LayerCount(10, 1, 4), LayerCount(20, 2, 8)], {"place": "share"}, "none", None, 0),
        ([LayerCount(10, 2, 4), LayerCount(20, 4, 8)], {"place": "share"}, "insert", 0, 48),  # a tie
        (TWO, {"place": "last", "size": 16}, "insert", 1, 16),
        (list(reversed(TWO)), {"place": "last"}, "insert", 1, 256),  # the size follows the worst layer
        # as described: high extrema say where, and how many units: 11 of the first layer, of 153 in all
        ([LayerCount(128, 11, 2), LayerCount(256, 9, 144)], {"counted": "high"}, "none", None, 0),
        ([LayerCount(128, 11, 90), LayerCount(256, 9, 144)], {"counted": "high"}, "insert", 0, 44),
        (TWO, {"change": "rewire"}, "rewire", None, 0),
        (TWO, {"change": "none"}, "none", None, 0),
    ],
)
def test_by_hand(
    layers: list[LayerCount], rules: dict[str, Any], change: str, layer: int | None, size: int
) -> None:
    decision = decide(layers, DecisionRules(**rules))
    assert (decision.change, decision.layer, decision.size, decision.patches) == (change, layer, size, True)


def test_the_reason_holds_the_numbers() -> None:
    assert decide(TWO, DecisionRules()).reason == (
        "262 extrema in 384 hidden units, above 0.5; layer 2 has most (153)"
    )
    assert decide(TWO, DecisionRules(place="share")).reason.endswith(
        "; layer 1 has the largest share (0.85 of its units)"
    )
    assert "9 high extrema, fewer than 10" in decide(TWO[:1], DecisionRules(rule="count")).reason
    assert "patches only" in decide([LayerCount(9, 0, 0)], DecisionRules()).reason
    assert "training on" in decide([LayerCount(9, 0, 0)], DecisionRules(patches=False)).reason


LAYERS = st.lists(
    st.integers(1, 300).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
            lambda t: st.builds(LayerCount, st.just(t[0]), st.just(t[1]), st.integers(0, t[0] - t[1]))
        )
    ),
    min_size=1,
    max_size=6,
)


@given(LAYERS, st.sampled_from(PLACES), st.sampled_from(CHANGES), st.integers(0, 2**32 - 1))
def test_places_differ_in_the_place_alone(
    layers: list[LayerCount], place: Any, change: Any, draw: int
) -> None:
    follows = decide(layers, DecisionRules(change=change))
    other = decide(layers, DecisionRules(change=change, place=place), draw=draw)
    assert (other.change, other.size, other.patches) == (follows.change, follows.size, follows.patches)
    assert (other.layer is None) == (follows.layer is None)
    if follows.layer is not None and other.layer is not None:
        assert layers[follows.layer].extrema == max(c.extrema for c in layers)
        assert 0 <= other.layer < len(layers) and 1 <= other.size <= 256


def test_random_places_are_all_taken_and_repeatable() -> None:
    rules = DecisionRules(place="random", rule="always")
    drawn = [decide(TWO * 2, rules, draw=k).layer for k in range(60)]
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn == [decide(TWO * 2, rules, draw=k).layer for k in range(60)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "no"},
        {"place": "middle"},
        {"change": "melt"},
        {"min_ratio": -1.0},
        {"size": 0},
        {"max_size": 0},
    ],
)
def test_wrong_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "size" in str(wrong) else "."):
        DecisionRules(**wrong)


def test_a_network_without_hidden_layers() -> None:
    with pytest.raises(ValueError, match="no extrema to decide by"):
        decide([], DecisionRules())
