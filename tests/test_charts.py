from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aemodel.charts import Bar, Line, Scale, bars, curves, scatter, ticks, weights

finite = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(finite, finite)
def test_ticks_are_few_and_within_the_axis(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    slack = 1e-6 * (high - low)
    assert all(low - slack <= t <= high + slack for t in found)


@given(finite, finite, finite)
def test_a_scale_maps_its_ends_to_its_ends(low: float, high: float, value: float) -> None:
    scale = Scale(low, high, 10, 110)
    if high != low:
        assert (scale(low), scale(high)) == (10, 110)
    assert math.isfinite(scale(value))


def test_curves_are_well_formed_with_a_legend_and_one_polyline_a_line() -> None:
    svg = curves([Line("a < b", "ours", (1, 2, 3), (0.5, 0.4, 0.3)), Line("none", "theirs", (), ())], "step")
    root = ElementTree.fromstring(svg)
    assert len(root.findall("polyline")) == 1
    assert "a < b" in [t.text for t in root.findall("text")]


def test_no_points_give_no_chart() -> None:
    assert curves([], "step") == bars([]) == weights([]) == scatter(np.empty((0, 2)), []) == ""


def test_a_bar_s_length_is_its_value_and_the_mark_is_what_it_is_compared_with() -> None:
    root = ElementTree.fromstring(bars([Bar("x", 0.5, 1.0), Bar("y", 1.0, 0.5), Bar("z", None, None)]))
    first, second = root.findall("rect")
    assert float(second.get("width", 0)) == 2 * float(first.get("width", 0))
    marks = [float(m.get("x1", 0)) for m in root.findall("line") if m.get("class") == "mark"]
    assert marks[0] > marks[1]
    assert "does not vary here" in [t.text for t in root.findall("text")]


def test_a_very_bad_column_stays_on_the_chart() -> None:
    root = ElementTree.fromstring(bars([Bar("x", -50.0, 0.5)]))
    (rect,) = root.findall("rect")
    assert float(rect.get("x", -1)) >= 0 and float(rect.get("width", 0)) < 720


def test_weights_go_to_either_side_of_zero_by_their_size() -> None:
    root = ElementTree.fromstring(weights([("up <", 0.5), ("down", -0.25), ("none", 0.0)]))
    (axis,) = root.findall("line")
    zero = float(axis.get("x1", 0))
    up, down, none = root.findall("rect")
    assert float(up.get("x", 0)) == zero and up.get("class") == "ours"
    assert float(down.get("x", 0)) + float(down.get("width", 0)) == zero and down.get("class") == "theirs"
    assert abs(float(up.get("width", 0)) - 2 * float(down.get("width", 0))) < 0.2 and float(none.get("width", 9)) == 0
    assert {"up <", "−0.25"} < {t.text for t in root.findall("text")}


def test_weights_of_one_sign_start_at_the_left() -> None:
    root = ElementTree.fromstring(weights([("a", 2.0), ("b", 1.0)]))
    starts = {r.get("x") for r in root.findall("rect")}
    assert len(starts) == 1 and ElementTree.fromstring(weights([("a", 0.0)])) is not None


def test_far_outliers_are_drawn_at_the_edge() -> None:
    points = np.random.default_rng(0).normal(size=(500, 2))
    points[0] = 1e6
    root = ElementTree.fromstring(scatter(points, ['class="s0"'] * 500))
    xs = [float(c.get("cx", 0)) for c in root.findall("circle")]
    assert len(xs) == 500 and max(xs) <= 512 and np.std(xs) > 50
