"""Kernels of a graph start early only if they wait by themselves, and only where the driver can do it."""

import ast
import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbuild.backends.torch import graph_overlap
from mmbuild.backends.torch.graph_overlap import overlap_kernels

PLAIN, PROGRAMMATIC = (0, 0, 0), (1, 0, 1)
KERNEL, COPY = 0, 1


class Driver:
    """The functions of libcuda that are called, on a graph of Python objects."""

    def __init__(self, nodes, edges, refuses=()):
        self.nodes, self.edges, self.refuses = nodes, dict(edges), refuses
        self.names = []

    def __getattr__(self, name):
        raise AttributeError(f"undefined symbol: {name}")

    def cuGraphGetEdges_v2(self, graph, firsts, seconds, data, count):  # noqa: ARG002, N802
        size = count._obj
        if firsts is not None:
            for place, ((first, second), kind) in enumerate(self.edges.items()):
                firsts[place], seconds[place] = first, second
                data[place].from_port, data[place].to_port, data[place].type = kind
        size.value = len(self.edges)
        return 0

    def cuGraphNodeGetType(self, node, kind):  # noqa: N802
        kind._obj.value = self.nodes[node.value][0]
        return 0

    def cuGraphKernelNodeGetParams_v2(self, node, found):  # noqa: N802
        found._obj.function = node.value
        return 0

    def cuFuncGetName(self, name, function):  # noqa: N802
        self.names.append(ctypes.create_string_buffer(self.nodes[function.value][1]))
        name._obj.value = self.names[-1].value
        return 0

    def cuGraphRemoveDependencies_v2(self, graph, firsts, seconds, data, count):  # noqa: ARG002, N802
        for first, second in zip(firsts, seconds, strict=True):
            del self.edges[first, second]
        return 0

    def cuGraphAddDependencies_v2(self, graph, firsts, seconds, data, count):  # noqa: ARG002, N802
        kinds = [(one.from_port, one.to_port, one.type) for one in data]
        if set(kinds) & set(self.refuses):
            return 1
        self.edges |= dict(zip(zip(firsts, seconds, strict=True), kinds, strict=True))
        return 0


def chain(*nodes):
    """Nodes one after the other."""
    return dict(enumerate(nodes, 1)), {(place, place + 1): PLAIN for place in range(1, len(nodes))}


@pytest.fixture
def run(monkeypatch):
    def run(driver):
        monkeypatch.setattr(graph_overlap, "_driver", lambda: driver)
        return overlap_kernels(7)

    return run


WAITING = [
    "_packed_product_0",
    "_stored_product",
    "_attend_3",
    "_join",
    "triton_poi_fused_add_mul_0",
    "triton_red_fused_mean_1",
]
OTHERS = [
    "nvjet_sm90_hsh_128x208",
    "_widen_0",
    "ncclDevKernel_AllReduce",
    "my_triton_poi_fused_x",
    "triton_tem_fused_mm",
    "_attend_3_other",
]


@pytest.mark.parametrize("name", WAITING)
def test_a_kernel_that_waits_starts_early(run, name):
    driver = Driver(*chain((KERNEL, b"anything"), (KERNEL, name.encode())))
    assert run(driver) == 1
    assert driver.edges == {(1, 2): PROGRAMMATIC}


@pytest.mark.parametrize("name", OTHERS)
def test_another_kernel_does_not(run, name):
    driver = Driver(*chain((KERNEL, b"_join"), (KERNEL, name.encode())))
    assert run(driver) == 0
    assert driver.edges == {(1, 2): PLAIN}


def test_ours_that_start_early_are_those_that_wait_whatever_their_arguments_are():
    waiting, named = set(), set()
    for module in (Path(graph_overlap.__file__).parent / "kernels").glob("*.py"):
        for function in ast.parse(module.read_text()).body:
            if isinstance(function, ast.FunctionDef) and "EARLY" in ast.unparse(function.args):
                statements = map(ast.unparse, function.body)  # not below a condition
                waiting |= {function.name} if "wait_for_previous(EARLY)" in statements else set()
                named |= {function.name} if graph_overlap._WAITS.fullmatch(function.name.encode()) else set()
    assert waiting == named == {"_packed_product", "_grouped_product", "_stored_product", "_attend", "_join"}


def test_only_after_kernels(run):
    waits = (KERNEL, b"_join")
    driver = Driver(*chain(waits, (COPY, b""), waits, waits))
    assert run(driver) == 1
    assert driver.edges == {(1, 2): PLAIN, (2, 3): PLAIN, (3, 4): PROGRAMMATIC}


def test_edges_of_another_kind_stay(run):
    nodes, _ = chain((KERNEL, b"_join"), (KERNEL, b"_join"))
    driver = Driver(nodes, {(1, 2): (2, 0, 1)})
    assert run(driver) == 0
    assert driver.edges == {(1, 2): (2, 0, 1)}


def test_a_refused_change_is_undone(run):
    driver = Driver(*chain((KERNEL, b"_join"), (KERNEL, b"_join")), refuses=[PROGRAMMATIC])
    assert run(driver) == 0
    assert driver.edges == {(1, 2): PLAIN}


def test_a_driver_without_such_edges_leaves_the_graph_as_it_is(run):
    assert run(SimpleNamespace()) == 0


def test_without_a_driver_too(monkeypatch):
    def missing():
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(graph_overlap, "_driver", missing)
    assert overlap_kernels(7) == 0
