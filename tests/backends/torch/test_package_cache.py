"""What a kept package is known by, and what becomes of files that cannot be trusted."""

import os
from functools import partial

import pytest
import torch
from torch import nn
from torch.export import Dim

from mmbuild.backends.torch import export as exporting
from mmbuild.backends.torch import package_cache
from mmbuild.backends.torch.aot_package import cpu_isa, load_package
from mmbuild.backends.torch.distributed import collectives
from mmbuild.backends.torch.export import compile_package, export, inductor_options

TARGET = {"device": "cpu", "sm": None, "isa": cpu_isa()}


class Products(nn.Module):
    """x [B, 8], weight [8, 8] -> a product, scaled by a number that is part of the graph."""

    def __init__(self, scale=2.0, table=None):
        super().__init__()
        self.scale, self.table = scale, table

    def forward(self, *inputs):
        """The product, and the table if there is one."""
        x, weight = inputs
        y = (x @ weight) * self.scale
        return y if self.table is None else y + torch.tensor(self.table)


class Sum(nn.Module):
    """A sum over ranks."""

    def forward(self, *inputs):
        """x [8] -> x of all ranks together."""
        return collectives.all_reduce(inputs[0], 2)


def graph(module=None, rows=3, most=16, dtype=torch.float32, weight=None):
    weight = torch.zeros(8, 8, dtype=dtype) if weight is None else weight
    dims = ({0: Dim("rows", min=1, max=most)} if most > 1 else None, None)
    return export(module or Products(), (torch.zeros(rows, 8, dtype=dtype), weight), dims, "cpu")


def moved_graph():
    """As if other lines of Python were above the module's."""
    program = graph()
    for node in program.graph.nodes:
        if "stack_trace" in node.meta:
            node.meta["stack_trace"] = node.meta["stack_trace"].replace("line ", "line 1")
    return program


def key(program=None, target=TARGET, name="head", **options):
    program = program or graph()
    return package_cache.key_of(program, name, target, {**inductor_options(target), **options})


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path / "mmbuild-packages"


@pytest.mark.parametrize(
    "same",
    [
        graph,
        moved_graph,
        partial(graph, weight=torch.full((8, 8), 7.0)),
    ],
    ids=["exported again", "from another line", "with other values of weights"],
)
def test_equal_graphs_have_one_key(same):
    assert key(same()) == key() is not None


def test_graphs_derived_from_others_have_one_key_wherever_these_are_in_memory():
    """As visual sides are: their nodes remember the graphs that they were in."""
    first, second = (graph().run_decompositions({}) for _ in range(2))
    remembered = [
        {source.graph_id for node in program.graph.nodes for source in node.meta.get("from_node", ())}
        for program in (first, second)
    ]
    assert all(remembered)
    assert remembered[0].isdisjoint(remembered[1])
    assert key(first) == key(second) is not None


@pytest.mark.parametrize(
    "other",
    [
        partial(graph, Products(scale=3.0)),
        partial(graph, most=17),
        partial(graph, most=1),
        partial(graph, rows=4),
        partial(graph, dtype=torch.float16),
        partial(graph, weight=torch.zeros(8, 8).t()),
        partial(graph, weight=torch.zeros(8, 4)),
        partial(graph, Products(table=[1.0] * 8)),
        partial(graph, Products(scale=2)),
    ],
    ids=[
        "number",
        "range",
        "static",
        "example size",
        "dtype",
        "strides",
        "shape",
        "operator",
        "kind of number",
    ],
)
def test_graphs_that_compile_to_other_packages_have_other_keys(other):
    assert key(other()) != key()


def test_constants_are_part_of_the_key_by_their_values():
    first, second, again = (key(graph(Products(table=[value] * 8))) for value in (1.0, 2.0, 1.0))
    assert first == again
    assert first != second


def test_what_it_is_compiled_for_and_how_is_part_of_the_key():
    isas = {key(target={**TARGET, "isa": isa}) for isa in ("avx512", "avx2", "generic")}
    assert len(isas) == 3
    assert key(**{"cpp.dynamic_threads": False}) != key()


def test_the_name_is_part_of_the_key():
    """A package contains it: what is built must not depend on what was built before."""
    assert key(name="embed") != key(name="head")


def test_inputs_in_the_same_memory_are_part_of_the_key():
    both = torch.zeros(8, 8)
    apart, together = (
        key(export(Products(), inputs, (None, None), "cpu"))
        for inputs in ((both, both.clone()), (both, both))
    )
    assert apart != together


def test_settings_of_the_process_are_part_of_the_key(monkeypatch):
    before = key()
    with torch._inductor.config.patch("cpp.min_chunk_size", 17):
        assert key() != before
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert key() != before
    monkeypatch.undo()
    assert key() == before


@pytest.mark.parametrize(
    "part", ["torch", "compiler", "CPATH", "TORCHINDUCTOR_DEBUG_SYMBOL", "cpu", "source"]
)
def test_torch_the_compiler_the_cpu_and_our_own_code_are_part_of_the_key(part, monkeypatch, tmp_path):
    before = package_cache.surroundings.__wrapped__()
    if part == "torch":
        monkeypatch.setattr(package_cache.codecache, "torch_key", lambda: b"another")
    if part == "compiler":
        monkeypatch.setattr(package_cache.cpp_builder, "get_compiler_version_info", lambda _: "another")
    if part.isupper():
        monkeypatch.setenv(part, "another")
    if part == "cpu":
        monkeypatch.setattr(package_cache, "_cpu", lambda: ["another"])
    if part == "source":
        (tmp_path / "export.py").write_text("another")
        monkeypatch.setattr(package_cache, "_SOURCES", (tmp_path / "export.py", *package_cache._SOURCES[1:]))
    assert package_cache.surroundings.__wrapped__() != before
    monkeypatch.undo()
    assert package_cache.surroundings.__wrapped__() == before


def test_the_number_of_ranks_is_part_of_the_key_of_a_sum():
    program = export(Sum(), (torch.zeros(8),), (None,), "cpu")
    keys = set()
    for ranks in (2, 4):
        with collectives.compiling(ranks):
            keys.add(key(program))
    assert len(keys) == 2


@torch.library.custom_op("mmbuild_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    """An operator that torch does not define."""
    return x * 2


twice.register_fake(torch.empty_like)


class Twice(nn.Module):
    """Calls it."""

    def forward(self, *inputs):
        """x [B, 8] -> twice x."""
        return torch.ops.mmbuild_test.twice(inputs[0])


def test_a_package_with_an_operator_of_somebody_else_is_not_kept():
    assert key(graph(Twice())) is None


def test_packages_for_a_gpu_are_not_kept():
    assert key(target={"device": "cuda", "sm": 90, "isa": None}) is None


def test_the_switch_of_torch_turns_it_off():
    with torch._inductor.config.patch("force_disable_caches", True):
        assert key() is None


def test_a_kept_package_is_found(kept):
    package_cache.keep("k", b"package")
    assert package_cache.find("k") == b"package"
    assert package_cache.find("other") is None
    assert package_cache.find(None) is None
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 40, None])
def test_a_damaged_package_is_removed(kept, damage):
    package_cache.keep("k", b"package")
    file = kept / "k"
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert package_cache.find("k") is None
    assert not file.exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_directory_that_others_can_write_to_is_not_used(kept, mode):
    package_cache.keep("k", b"package")
    kept.chmod(mode)
    assert package_cache.find("k") is None
    package_cache.keep("other", b"package")
    assert not (kept / "other").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_user_is_not_used(kept):
    package_cache.keep("k", b"package")
    os.chown(kept, 12345, -1)
    assert package_cache.find("k") is None


def test_a_link_is_not_used(kept, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    kept.symlink_to(tmp_path / "elsewhere")
    package_cache.keep("k", b"package")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_directory_that_cannot_be_created_is_no_error(kept):
    kept.write_text("a file")
    package_cache.keep("k", b"package")
    assert package_cache.find("k") is None


def test_the_least_recently_used_packages_are_removed(kept, monkeypatch):
    monkeypatch.setattr(package_cache, "_MOST_BYTES", 4 * (32 + 68))
    for number in range(4):
        package_cache.keep(f"k{number}", b"x" * 68)
        os.utime(kept / f"k{number}", (number, number))
    assert package_cache.find("k0") is not None
    package_cache.keep("k4", b"x" * 68)
    assert sorted(path.name for path in kept.iterdir()) == ["k0", "k3", "k4"]


def test_a_package_above_the_limit_is_not_kept(kept, monkeypatch):
    monkeypatch.setattr(package_cache, "_MOST_OF_ONE", 40)
    package_cache.keep("k", b"x" * 9)
    assert not (kept / "k").exists()


@pytest.mark.slow
def test_the_second_engine_with_a_graph_gets_the_same_package(kept, tmp_path, monkeypatch):
    first, second = tmp_path / "head.pt2", tmp_path / "other" / "head.pt2"
    second.parent.mkdir()
    compile_package(graph(), first, TARGET)
    (entry,) = kept.iterdir()
    monkeypatch.setattr(exporting, "_compile", lambda *_: pytest.fail("it was compiled again"))
    compile_package(graph(), second, TARGET)
    assert second.read_bytes() == first.read_bytes()
    x, weight = torch.randn(5, 8), torch.randn(8, 8)
    (found,) = load_package(second, "cpu")([x, weight])
    torch.testing.assert_close(found, Products()(x, weight))
    monkeypatch.undo()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    entry.write_bytes(entry.read_bytes()[:-100])
    compile_package(graph(), second, TARGET)
    (found,) = load_package(second, "cpu")([x, weight])
    torch.testing.assert_close(found, Products()(x, weight))
