"""Cuts the graph of a module at the boundaries of its layers, so that equal layers are compiled once.

A layer is an item of a :class:`torch.nn.ModuleList`; which nodes belong to it, torch.export notes in their metadata.
What is before, between and after layers becomes segments too. Weights are inputs of a segment; so layers that differ
only in their weights have equal graphs.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.node import map_aggregate

from mmbuild.backends.torch.graph_segment import Segment, fingerprint, read_input
from mmbuild.backends.torch.visual_calls import Call, Calls

_SIZE = torch.ops.aten.sym_size.int
_OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Cut:
    """A module in segments.

    Attributes:
        segments: Distinct segments by name.
        calls: Their calls.
    """

    segments: Mapping[str, Segment]
    calls: Calls


def cut(program: ExportedProgram, module: nn.Module, device: str) -> Cut:
    """Cut the graph of ``module`` at the boundaries of its layers.

    Args:
        program: Graph of ``module``, which takes one tensor and returns one; at most the first dimension of its input
            is dynamic. In-place operations must be gone (``run_decompositions``).
        module: For the names of its lists of layers.
        device: Device that the segments run on; ``program`` may be of another one.
    """
    reader = _Reader(program, module, device)
    groups = list(_groups(program.graph, layers(module)))
    groups = _joined(groups, [fingerprint(reader.segment(part)) for part in reader.parts(groups)])
    numbers = {reader.input: 0}
    segments: dict[str, Segment] = {}
    names: dict[str, str] = {}
    calls = []
    for (label, _), part in zip(groups, reader.parts(groups), strict=True):
        segment = reader.segment(part)
        key = fingerprint(segment)
        if key not in names:
            names[key] = _name(label, segments)
            segments[names[key]] = segment
        values = tuple(numbers[node] for node in part.activations)
        weights = tuple(reader.weights[node] for node in part.weights)
        calls.append(Call(names[key], values, weights, len(part.outputs)))
        for node in part.outputs:
            numbers[node] = len(numbers)
    return Cut(segments, Calls(tuple(calls), numbers[reader.result]))


def layers(module: nn.Module) -> frozenset[str]:
    """Names of all items of lists of modules."""
    modules = dict(module.named_modules(remove_duplicate=False))
    lists = {name for name, child in modules.items() if isinstance(child, nn.ModuleList)}
    return frozenset(name for name in modules if name.rpartition(".")[0] in lists)


_Group = tuple[str, list[fx.Node]]
"""Name of a layer (empty outside of layers), and its nodes."""


@dataclass(slots=True)
class _Part:
    """Nodes of a segment, and what they exchange with the other nodes."""

    nodes: Sequence[fx.Node]
    activations: list[fx.Node] = field(default_factory=list)
    weights: list[fx.Node] = field(default_factory=list)
    constants: list[fx.Node] = field(default_factory=list)
    outputs: list[fx.Node] = field(default_factory=list)


class _Reader:
    """Reads parts of an exported graph."""

    def __init__(self, program: ExportedProgram, module: nn.Module, device: str) -> None:
        self._device = torch.device(device)
        shared = _first_names(module)
        self.weights: dict[fx.Node, str] = {}
        self._constants: dict[fx.Node, Tensor] = {}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                self.input = node
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.weights[node] = shared[str(spec.target)]
            else:
                self._constants[node] = program.constants[str(spec.target)]
        (self.result,) = program.graph.output_node().args[0]

    def parts(self, groups: Sequence[_Group]) -> list[_Part]:
        """A part for every group of nodes, with its inputs in the order of their use, and its outputs."""
        parts = [self._part(nodes) for _, nodes in groups]
        exchanged = {self.result}.union(*(part.activations for part in parts))
        for part in parts:
            part.outputs += [node for node in part.nodes if node in exchanged]
        return parts

    def _part(self, nodes: Sequence[fx.Node]) -> _Part:
        inside, part = set(nodes), _Part(nodes)
        used = dict.fromkeys(node for inner in nodes for node in inner.all_input_nodes)
        for node in used:
            if node not in inside and not _is_number(node):
                self._place(node, part).append(node)
        for size in (size for node in used if _is_number(node) for size in _sizes(node)):
            tensor = size.args[0]
            if tensor not in inside and _same_size(size, part.activations) is None:
                self._place(tensor, part).append(tensor)
        return part

    def _place(self, node: fx.Node, part: _Part) -> list[fx.Node]:
        if node in self.weights:
            return part.weights
        return part.constants if node in self._constants else part.activations

    def segment(self, part: _Part) -> Segment:
        """A separate graph for a part."""
        graph, copies, constants = fx.Graph(), {}, {}
        for number, node in enumerate([*part.activations, *part.weights]):
            copies[node] = graph.placeholder(f"x{number}")
        for number, node in enumerate(part.constants):
            constants[f"constant{number}"] = self._constants[node].to(self._device)
            copies[node] = graph.get_attr(f"constant{number}")

        def copied(node: fx.Node) -> fx.Node:
            if node not in copies:
                same = _same_size(node, part.activations) if node.target is _SIZE else None
                copies[node] = (
                    graph.node_copy(node, copied)
                    if same is None
                    else graph.call_function(_SIZE, (copies[same[0]], same[1]))
                )
            return copies[node]

        for node in part.nodes:
            copied(node)
        # Packages take activations to be contiguous. Most are, and layers are equal whether theirs were or not.
        contiguous = torch.ops.aten.contiguous.default
        graph.output(tuple(graph.call_function(contiguous, (copies[node],)) for node in part.outputs))
        for node in graph.nodes:
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), self._moved)
        inputs = tuple(read_input(node.meta["val"]) for node in [*part.activations, *part.weights])
        return Segment(fx.GraphModule(constants, graph), inputs)

    def _moved(self, argument: Any) -> Any:
        """An argument of a node, on the device that segments run on."""
        return self._device if isinstance(argument, torch.device) else argument


def _joined(groups: Sequence[_Group], keys: Sequence[str]) -> list[_Group]:
    """Groups, with neighbours joined whose keys are unique: a package that runs once saves nothing, and each takes
    seconds to compile."""
    joined = []
    numbered = enumerate(zip(groups, keys, strict=True))
    for _, run in itertools.groupby(
        numbered, key=lambda item: -1 if keys.count(item[1][1]) == 1 else item[0]
    ):
        members = [group for _, (group, _) in run]
        label = members[0][0] if len(members) == 1 else ""
        joined.append((label, [node for _, nodes in members for node in nodes]))
    return joined


def _first_names(module: nn.Module) -> dict[str, str]:
    """The first name of every parameter and buffer, by each of its names."""
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _groups(graph: fx.Graph, layers: frozenset[str]) -> Iterator[_Group]:
    """The nodes that compute tensors for the result, in runs of the same layer.

    Numbers, which are sizes, belong to no layer: each segment computes its own.
    """
    needed = _needed(graph)
    labels: dict[fx.Node, str] = {}
    label = ""
    for node in graph.nodes:
        if node.op != "call_function" or node not in needed or _is_number(node):
            continue
        stack = node.meta.get("nn_module_stack")
        if node.target is operator.getitem:
            label = labels[node.args[0]]
        elif stack:
            label = next((path for path, _ in reversed(stack.values()) if _plain(path) in layers), "")
        labels[node] = label
    for label, nodes in itertools.groupby(labels, key=labels.__getitem__):
        yield label, list(nodes)


def _plain(path: str) -> str:
    """The name of a module; torch.export numbers the calls of one that is called again."""
    return path.partition("@")[0]


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the result depends on: no assertions of torch.export."""
    needed = {graph.output_node()}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | torch.SymBool)


def _sizes(node: fx.Node) -> Iterator[fx.Node]:
    """The sizes of tensors that a number is computed from."""
    if node.target is _SIZE:
        yield node
        return
    for inner in node.all_input_nodes:
        yield from _sizes(inner)


def _same_size(size: fx.Node, activations: Sequence[fx.Node]) -> tuple[fx.Node, int] | None:
    """The first dimension of ``activations`` of a size: the tensor and the dimension."""
    expected = _expression(size.meta["val"])
    for node in activations:
        for dim, actual in enumerate(node.meta["val"].shape):
            if _expression(actual) == expected:
                return node, dim
    return None


def _expression(size: int | torch.SymInt) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _name(label: str, taken: Mapping[str, object]) -> str:
    """A name for a segment: that of the list its layer is an item of."""
    base = _plain(label).rpartition(".")[0].rpartition(".")[2] or _OUTSIDE
    numbered = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    return next(name for name in numbered if name not in taken)
