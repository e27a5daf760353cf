"""Drawings: every action and edge once, edges point down, boxes do not overlap, labels are escaped."""

import xml.etree.ElementTree as ET
from itertools import pairwise

from builds import Workshop
from hypothesis import given
from hypothesis import strategies as st
from trivial_steps import action

from mmbuild.graph.action import RecipeGraph
from mmbuild.graph.draw import dot, mermaid, svg
from mmbuild.graph.layout import lay_out

numbers = st.integers(2, 9)
graphs = numbers.flatmap(
    lambda count: st.tuples(
        st.just([f"n{i}" for i in range(count)]),
        st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda p: p[0] < p[1]),
            unique=True,
        ).map(lambda pairs: [(f"n{a}", f"n{b}") for a, b in pairs]),
    )
)


@given(graphs)
def test_edges_point_down_and_boxes_do_not_overlap(graph):
    names, edges = graph
    picture = lay_out({name: name * 5 for name in names}, edges)
    boxes = picture.boxes
    assert set(boxes) == set(names)
    for one, other in edges:
        assert boxes[one].y + boxes[one].height < boxes[other].y
    for box in boxes.values():
        assert 0 <= box.x <= picture.width - box.width
        assert 0 <= box.y <= picture.height - box.height
    ordered = sorted(boxes.values(), key=lambda b: (b.y, b.x))
    for left, right in pairwise(ordered):
        assert left.y != right.y or left.x + left.width <= right.x


def test_odd_labels_are_escaped(tmp_path):
    one = action("write", 'r/<"&]>', text="1")
    two = action("write", "r/two", {'in"put': one}, text="2")
    plan = Workshop(tmp_path).plan(RecipeGraph("r", (one, two), two.definition_key))
    picture = ET.fromstring(svg(plan))
    assert 'r/<"&]>' in [e.text for e in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert '\\"' in dot(plan)
    (label,) = [line for line in mermaid(plan).splitlines() if line.startswith("  a0[")]
    assert label.count('"') == 2
