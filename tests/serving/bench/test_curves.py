"""Geometry of curves."""

from hypothesis import given
from hypothesis import strategies as st

from mmbuild.serving.bench.curves import Chart, Curve, charts, ticks
from support.measured import answered, failed, result, run


@given(st.floats(1e-9, 1e12))
def test_ticks_reach_the_largest_value(most):
    found = ticks(most)
    assert 3 <= len(found) <= 6
    assert found[0] == 0
    assert found[-1] >= most * (1 - 1e-6)
    assert found[-2] < most
    step = found[1]
    assert f"{step:e}"[0] in "125"


def test_ticks_without_values():
    assert ticks(0.0) == [0.0, 0.5, 1.0]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=20))
def test_points_are_inside_the_axes(points):
    chart = Chart("t", "x", "y", (Curve("c", "closed", tuple(points), ("",) * len(points)),))
    for x, y in points:
        assert chart.left <= chart.x(x) <= chart.right + 1e-3
        assert chart.top - 1e-3 <= chart.y(y) <= chart.bottom


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20))
def test_labels_cover_no_other_label(points):
    curve = Curve("c", "closed", tuple(points), tuple(f"{number}/s" for number in range(len(points))))
    placed = Chart("t", "x", "y", (curve,)).labels
    assert placed
    for number, (x, y, text) in enumerate(placed):
        assert y < Chart.bottom
        assert all(
            abs(x - a) >= 3.5 * (len(text) + len(b)) or abs(y - c) >= 12 for a, c, b in placed[:number]
        )


def test_loops_are_curves_in_the_order_of_their_loads():
    found = charts(
        result(run("clients", 8, [answered()]), run("clients", 1, [answered()]), run("rate", 4, [answered()]))
    )
    assert [chart.title for chart in found] == [
        "Throughput against latency",
        "Time to first token",
        "Time per token",
    ]
    closed, tail, opened, _ = found[0].curves
    assert closed.labels == ("1", "8")
    assert tail.labels == ("", "")
    assert opened.labels == ("4/s",)
    assert [curve.style for curve in found[0].curves] == ["closed p50", "closed p99", "open p50", "open p99"]


def test_runs_without_answers_have_no_points():
    assert charts(result(run("clients", 1, [failed()]))) == []
    (throughput, first) = charts(result(run("clients", 1, [answered(tokens=1)])))
    assert throughput.up == "whole answer, s"
    assert first.up == "first token, ms"


def test_labels_cover_no_point_of_any_curve() -> None:
    """A tail right above the point whose label would go there, and a neighbour whose label is below."""
    medians = Curve("a", "open p50", ((100.0, 20.0), (140.0, 20.0), (180.0, 20.0)), ("5/s", "10/s", "20/s"))
    tails = Curve("b", "open p99", ((100.0, 22.0), (140.0, 22.5), (180.0, 23.0)), ("", "", ""))
    chart = Chart("t", "x", "y", (medians, tails))
    found = chart.labels
    assert found
    for middle, base, text in found:
        half = len(text) * 7.5 / 2
        for curve in chart.curves:
            for x, y in curve.points:
                inside = abs(chart.x(x) - middle) < half and base - 9 < chart.y(y) < base
                assert not inside, (text, x, y)
