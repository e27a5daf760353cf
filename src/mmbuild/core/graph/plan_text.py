"""Formats plans and graphs: text for a terminal, Mermaid, DOT and SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mmbuild.base.errors import MmbuildError
from mmbuild.base.folding import fold
from mmbuild.core.graph.cost import PlanCost
from mmbuild.core.graph.plan import Plan, Verdict

_SHOWN_FIRST = (Verdict.RUN, Verdict.UNKNOWN, Verdict.PULL, Verdict.RESTORE)


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How a plan is written as text.

    Attributes:
        width: Columns of the terminal; None writes whole lines.
        style: Returns a verdict, already padded, in its colour.
        details: Further lines about an action, by definition key.
    """

    width: int | None = None
    style: Callable[[Verdict, str], str] = lambda _, text: text
    details: Mapping[str, Sequence[str]] = field(default_factory=dict)


def plan_text(plan: Plan, cost: PlanCost, layout: TextLayout | None = None) -> str:
    """Return one line per action (verdict, label, duration, reason), then a summary and the cost.

    If one of these lines is wider than the layout, all reasons are on lines of their own.
    """
    layout = layout or TextLayout()
    heads, reasons = _heads(plan, cost), [f"{p.reason}{_shared(p.recipes)}" for p in plan.actions]
    narrow = layout.width is not None and any(
        len(head) + len(reason) + 2 > layout.width for head, reason in zip(heads, reasons, strict=True)
    )
    lines = []
    for p, head, reason in zip(plan.actions, heads, reasons, strict=True):
        further = [reason] if narrow else []
        further += layout.details.get(p.action.definition_key, ())
        first = fold(head.rstrip(), layout.width, "    ") if narrow else f"{head}  {reason}"
        lines.append(layout.style(p.verdict, first[: len(p.verdict)]) + first[len(p.verdict) :])
        lines += [fold(f"    {line}", layout.width) for line in further]
    lines += [fold(line, layout.width) for line in (summary(plan), *cost.text().splitlines())]
    return "\n".join(filter(None, lines)) + "\n"


def _heads(plan: Plan, cost: PlanCost) -> list[str]:
    """Verdict, label and duration of each action, in columns."""
    width = max((len(p.action.label) for p in plan.actions), default=0)
    verdicts = max((len(p.verdict) for p in plan.actions), default=0)
    times = {
        p.action.definition_key: str(cost.actions.get(p.action.definition_key, "")) for p in plan.actions
    }
    widest = max(map(len, times.values()), default=0)
    return [
        f"{p.verdict:<{verdicts}}  {p.action.label:<{width}}"
        + (f"  {times[p.action.definition_key]:>{widest}}" if widest else "")
        for p in plan.actions
    ]


def summary(plan: Plan) -> str:
    """Return the counts in one line: ``3 to run, 1 may change, 4 up to date``."""
    if not plan.changes:
        return f"everything is up to date ({len(plan.actions)} actions)"
    names = {Verdict.RUN: "to run", Verdict.PULL: "to pull", Verdict.RESTORE: "to restore"}
    counts = {verdict: plan.count(verdict) for verdict in (*_SHOWN_FIRST, Verdict.UP_TO_DATE)}
    return ", ".join(f"{count} {names.get(verdict, verdict)}" for verdict, count in counts.items() if count)


def _shared(recipes: tuple[str, ...]) -> str:
    return f" (shared by {len(recipes)} recipes)" if len(recipes) > 1 else ""


_FILL = {
    Verdict.RUN: "#fde7c7",
    Verdict.UNKNOWN: "#fdf6d8",
    Verdict.PULL: "#e4defa",
    Verdict.RESTORE: "#d9e8fb",
    Verdict.UP_TO_DATE: "#dff2df",
}
"""Fill color by verdict: warm for pending work, green for finished work."""

_SECONDS = 60
"""Time limit for a run of Graphviz."""


@dataclass(frozen=True, slots=True)
class Node:
    """An action in a drawing, named by its index in the plan."""

    name: str
    label: str
    verdict: Verdict


def mermaid(plan: Plan) -> str:
    """Return a Mermaid flowchart."""
    nodes, edges = _nodes_and_edges(plan)
    lines = ["flowchart TD"]
    lines += [f'  {node.name}["{_mermaid_text(node.label)}"]:::{_slug(node.verdict)}' for node in nodes]
    lines += [f"  {producer} -->|{_mermaid_text(name)}| {consumer}" for producer, consumer, name in edges]
    lines += [
        f"  classDef {_slug(verdict)} fill:{fill},stroke:#555,color:#222" for verdict, fill in _FILL.items()
    ]
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """Return a Graphviz digraph."""
    nodes, edges = _nodes_and_edges(plan)
    lines = ["digraph plan {", '  node [shape=box, style="filled,rounded", fontname="sans-serif"];']
    lines += [
        f'  {node.name} [label="{_dot_text(node.label)}", fillcolor="{_FILL[node.verdict]}"];'
        for node in nodes
    ]
    lines += [
        f'  {producer} -> {consumer} [label="{_dot_text(name)}"];' for producer, consumer, name in edges
    ]
    return "\n".join([*lines, "}"]) + "\n"


def svg(plan: Plan) -> str:
    """Return :func:`dot` rendered by Graphviz.

    Raises:
        MmbuildError: MM206, Graphviz is not installed or fails.
    """
    import shutil  # not for plans without a drawing
    import subprocess

    program = shutil.which("dot")
    if program is None:
        raise _svg_error("Graphviz's `dot` is not on PATH", "install the package `graphviz`")
    try:
        process = subprocess.run(
            [program, "-Tsvg"], input=dot(plan).encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _svg_error(f"it takes more than {_SECONDS} seconds", "draw fewer recipes") from None
    except OSError as error:
        raise _svg_error(f"`{program}` cannot be run: {error.strerror}", "reinstall `graphviz`") from None
    if process.returncode != 0:
        errors = process.stderr.decode(errors="replace").strip().splitlines()
        detail = f": {errors[0][:200]}" if errors else ""
        raise _svg_error(
            f"`{program}` exited with status {process.returncode}{detail}", "reinstall `graphviz`"
        )
    return process.stdout.decode(errors="replace")


def _svg_error(reason: str, hint: str) -> MmbuildError:
    return MmbuildError(
        f"cannot draw the graph as SVG: {reason}", code="MM206", hint=f"{hint}, or use `--format mermaid`"
    )


FORMATS: Mapping[str, Callable[[Plan], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}


def _nodes_and_edges(plan: Plan) -> tuple[list[Node], list[tuple[str, str, str]]]:
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
    """Escape a label: Mermaid decodes numeric entities, and quotes and brackets would end the label."""
    return "".join(c if c.isalnum() or c in " /-_." else f"#{ord(c)};" for c in text)


def _dot_text(text: str) -> str:
    """Escape a label: Graphviz decodes HTML entities and backslash escapes."""
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
