"""A small layered layout for drawing: longest path for layers, barycentres for the order in each.

The method is that of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system
structures", IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981, without dummy vertices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CHARACTER = 7.2
_HEIGHT = 32.0
_GAP_X = 28.0
_GAP_Y = 46.0
_MARGIN = 16.0
_SWEEPS = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A node's place, in pixels from the top left."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Picture:
    """All boxes by name, and the size of the whole."""

    boxes: Mapping[str, Box]
    width: float
    height: float


def lay_out(labels: Mapping[str, str], edges: Sequence[tuple[str, str]]) -> Picture:
    """Place the nodes of an acyclic graph; every edge points down.

    Args:
        labels: Text by node name, producers before consumers.
        edges: (producer, consumer).
    """
    layers = order(layers_of(list(labels), edges), edges)
    widths = {name: max(60.0, len(label) * _CHARACTER + 20) for name, label in labels.items()}
    spans = [sum(widths[name] for name in layer) + _GAP_X * (len(layer) - 1) for layer in layers]
    whole = max(spans, default=0.0)
    boxes: dict[str, Box] = {}
    for depth, (layer, span) in enumerate(zip(layers, spans, strict=True)):
        x, y = _MARGIN + (whole - span) / 2, _MARGIN + depth * (_HEIGHT + _GAP_Y)
        for name in layer:
            boxes[name] = Box(labels[name], x, y, widths[name], _HEIGHT)
            x += widths[name] + _GAP_X
    height = 2 * _MARGIN + len(layers) * (_HEIGHT + _GAP_Y) - (_GAP_Y if layers else 0)
    return Picture(boxes, whole + 2 * _MARGIN, height)


def layers_of(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Nodes by the length of the longest path to them; ``names`` has producers first."""
    depth = dict.fromkeys(names, 0)
    producers = _neighbours(edges, reverse=True)
    for name in names:
        depth[name] = max((depth[producer] + 1 for producer in producers.get(name, ())), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    return layers


def order(layers: list[list[str]], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Sort each layer by the mean place of its neighbours, down and up in turn."""
    down, up = _neighbours(edges, reverse=True), _neighbours(edges, reverse=False)
    layers = [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        place = {name: index for layer in layers for index, name in enumerate(layer)}
        neighbours = down if sweep % 2 == 0 else up
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            layer.sort(key=lambda name: _mean(neighbours.get(name, []), place, name))
            place.update({name: index for index, name in enumerate(layer)})
    return layers


def _mean(neighbours: list[str], place: Mapping[str, int], name: str) -> float:
    if not neighbours:
        return float(place[name])
    return sum(place[other] for other in neighbours) / len(neighbours)


def _neighbours(edges: Sequence[tuple[str, str]], *, reverse: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one, other in edges:
        if reverse:
            found.setdefault(other, []).append(one)
        else:
            found.setdefault(one, []).append(other)
    return found
