"""Graphs of actions as Mermaid, DOT and SVG text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from mmbuild.graph.layout import Box, Picture, lay_out
from mmbuild.graph.plan import Plan, Verdict

_FILL = {
    Verdict.RUN: "#fde7c7",
    Verdict.UNKNOWN: "#fdf6d8",
    Verdict.PULL: "#e4defa",
    Verdict.RESTORE: "#d9e8fb",
    Verdict.UP_TO_DATE: "#dff2df",
}
"""Fill by verdict: what works is warm, what is done is green."""


@dataclass(frozen=True, slots=True)
class Node:
    """An action as drawn: its name is its place in the plan."""

    name: str
    label: str
    verdict: Verdict


def mermaid(plan: Plan) -> str:
    """A Mermaid flowchart."""
    nodes, edges = _drawn(plan)
    lines = ["flowchart TD"]
    lines += [f'  {node.name}["{_mermaid_text(node.label)}"]:::{_slug(node.verdict)}' for node in nodes]
    lines += [f"  {one} -->|{_mermaid_text(name)}| {other}" for one, other, name in edges]
    lines += [
        f"  classDef {_slug(verdict)} fill:{fill},stroke:#555,color:#222" for verdict, fill in _FILL.items()
    ]
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """A Graphviz digraph."""
    nodes, edges = _drawn(plan)
    lines = ["digraph plan {", '  node [shape=box, style="filled,rounded", fontname="sans-serif"];']
    lines += [
        f'  {node.name} [label="{_dot_text(node.label)}", fillcolor="{_FILL[node.verdict]}"];'
        for node in nodes
    ]
    lines += [f'  {one} -> {other} [label="{_dot_text(name)}"];' for one, other, name in edges]
    return "\n".join([*lines, "}"]) + "\n"


def svg(plan: Plan) -> str:
    """A self-contained SVG picture, layers from top to bottom."""
    nodes, edges = _drawn(plan)
    pairs = [(one, other) for one, other, _ in edges]
    picture = lay_out({node.name: node.label for node in nodes}, pairs)
    fills = {node.name: _FILL[node.verdict] for node in nodes}
    titles = {node.name: f"{node.label}: {node.verdict}" for node in nodes}
    lines = [_svg_head(picture)]
    lines += [_svg_edge(picture.boxes[one], picture.boxes[other]) for one, other in pairs]
    lines += [_svg_box(box, fills[name], titles[name]) for name, box in picture.boxes.items()]
    return "\n".join([*lines, "</svg>"]) + "\n"


FORMATS: Mapping[str, Callable[[Plan], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}


def _drawn(plan: Plan) -> tuple[list[Node], list[tuple[str, str, str]]]:
    names = {p.action.definition_key: f"a{index}" for index, p in enumerate(plan.actions)}
    nodes = [Node(names[p.action.definition_key], p.action.label, p.verdict) for p in plan.actions]
    edges = [
        (names[producer], names[p.action.definition_key], name)
        for p in plan.actions
        for name, producer in p.action.inputs.items()
    ]
    return nodes, edges


def _slug(verdict: Verdict) -> str:
    return verdict.name.lower()


def _mermaid_text(text: str) -> str:
    """Mermaid reads entities by number; quotes and brackets would end the label."""
    return "".join(c if c.isalnum() or c in " /-_." else f"#{ord(c)};" for c in text)


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _svg_head(picture: Picture) -> str:
    size = f'width="{picture.width:.0f}" height="{picture.height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {picture.width:.0f} {picture.height:.0f}"'
        ' font-family="sans-serif" font-size="13">\n'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
        ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
    )


def _svg_edge(one: Box, other: Box) -> str:
    x1, y1, x2, y2 = one.x + one.width / 2, one.y + one.height, other.x + other.width / 2, other.y
    middle = (y1 + y2) / 2
    path = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="#555" marker-end="url(#arrow)"/>'


def _svg_box(box: Box, fill: str, title: str) -> str:
    return (
        f'<g><title>{escape(title)}</title><rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}"'
        f' height="{box.height:.1f}" rx="6" fill="{fill}" stroke="#555"/>'
        f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + box.height / 2 + 4.5:.1f}" text-anchor="middle">'
        f"{escape(box.label)}</text></g>"
    )
