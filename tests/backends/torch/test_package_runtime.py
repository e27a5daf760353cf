"""What a package's library holds besides its graph: compared with what torch puts there."""

import platform
import re
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._inductor import codecache, cpp_builder

from mmbuild.backends.torch import package_runtime
from mmbuild.backends.torch.aot_package import cpu_isa, load_package
from mmbuild.backends.torch.export import compile_package, export
from mmbuild.backends.torch.package_runtime import kept_headers, link_stub

TARGET = {"device": "cpu", "sm": None, "isa": cpu_isa()}
# What torch's interface has and nobody here calls.
SWAP = b"AOTInductorModelContainerSwapConstantBuffer"


class Scaled(nn.Module):
    """Two products: one output that depends on both inputs, and one that is computed in place."""

    def forward(self, *inputs):
        """x [B, 8], weight [8, 8] -> x @ weight, its softmax."""
        x, weight = inputs
        y = x @ weight
        return y, y.softmax(-1)


class WithConstant(nn.Module):
    """A graph that holds a constant, as none of an engine does."""

    def forward(self, *inputs):
        """x [16] -> x plus a table, too long for Inductor to write it into the code."""
        return inputs[0] + torch.tensor([float(number) for number in range(16)])


def compiled(module, inputs, dims, path):
    compile_package(export(module, inputs, dims, "cpu"), path, TARGET)
    return path


def source_and_library(path):
    """The C++ that Inductor generated and was compiled, and the library."""
    with zipfile.ZipFile(path) as package:
        named = {
            Path(name).suffixes[-2:][0] + Path(name).suffix: name
            for name in package.namelist()
            if "wrapper" in name
        }
        return package.read(named[".wrapper.cpp"]).decode(), package.read(named[".wrapper.so"])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A compiled package of :class:`Scaled`."""
    inputs = (torch.zeros(3, 8), torch.zeros(8, 8))
    dims = ({0: torch.export.Dim("rows", min=1, max=16)}, None)
    return compiled(Scaled(), inputs, dims, tmp_path_factory.mktemp("package") / "scaled.pt2")


@pytest.mark.slow
def test_the_torch_installed_generates_what_is_left_out(package):
    """Both cuts depend on the text that this torch generates."""
    source, library = source_and_library(package)
    assert source.count("check_input_") == source.count("#if 0\nAOTI_NOINLINE static void check_input_") > 0
    assert SWAP not in library
    assert "std::regex" not in source


@pytest.mark.slow
def test_a_package_asks_for_the_libraries_that_torch_links_it_with(package, tmp_path, monkeypatch):
    """Linked with the stub, and with torch's own library."""
    assert link_stub._directory() is not None
    monkeypatch.setattr(link_stub, "_directory", lambda: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    # Without precompiled headers, which no other test would use: their names depend on where libraries are.
    with torch._inductor.config.patch("aot_inductor.precompile_headers", False):
        path = compiled(
            Scaled(), (torch.zeros(3, 8), torch.zeros(8, 8)), (None, None), tmp_path / "plain.pt2"
        )
    needed = []
    for linked in (package, path):
        (tmp_path / "library.so").write_bytes(source_and_library(linked)[1])
        listed = subprocess.run(
            ["readelf", "-d", tmp_path / "library.so"], capture_output=True, text=True, check=True
        )
        needed.append(re.findall(r"\(NEEDED\).*\[(.*)\]", listed.stdout))
    assert needed[0] == needed[1]
    assert "libtorch_cpu.so" in needed[0]


@pytest.mark.parametrize("kept", [True, False])
def test_no_stub_is_taken_from_a_directory_that_others_can_write_to(kept, monkeypatch, tmp_path):
    monkeypatch.setattr(link_stub, "default_cache_dir", lambda: str(tmp_path))
    directory = link_stub._directory.__wrapped__()
    assert [path.name for path in directory.iterdir()] == ["libtorch_cpu.so"]
    directory.chmod(0o700 if kept else 0o777)
    assert link_stub._directory.__wrapped__() == (directory if kept else None)


def test_without_a_stub_packages_are_linked_with_torch(monkeypatch, tmp_path):
    (tmp_path / f"mmbuild-link-{platform.machine()}").write_text("a file")
    monkeypatch.setattr(link_stub, "default_cache_dir", lambda: str(tmp_path))
    monkeypatch.setattr(link_stub, "_directory", link_stub._directory.__wrapped__)
    before = cpp_builder._get_torch_related_args(include_pytorch=False, aot_mode=True)
    with link_stub.linked():
        assert cpp_builder._get_torch_related_args(include_pytorch=False, aot_mode=True) == before


def stack_flags(library):
    """The flags of PT_GNU_STACK in a 64-bit ELF file."""
    (start,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    headers = [struct.unpack_from("<II", library, start + size * number) for number in range(count)]
    return [flags for kind, flags in headers if kind == 0x6474E551]


@pytest.mark.slow
def test_a_package_needs_no_executable_stack(package):
    """glibc 2.41 loads no library that does, says its announcement."""
    _, library = source_and_library(package)
    readable, writable = 4, 2
    assert stack_flags(library) == [readable | writable]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_a_package_computes_what_its_module_does(package, rows):
    x, weight = torch.randn(rows, 8), torch.randn(8, 8, requires_grad=True)
    with torch.no_grad():
        expected = Scaled()(x, weight)
    for found, wanted in zip(load_package(package, "cpu")([x, weight]), expected, strict=True):
        torch.testing.assert_close(found, wanted)
        assert not found.requires_grad


@pytest.mark.slow
def test_a_wrong_number_of_inputs_is_an_error(package, capfd):
    with pytest.raises(RuntimeError, match="RunSingleThreaded"):
        load_package(package, "cpu")([torch.zeros(3, 8)])
    assert "another number of inputs" in capfd.readouterr().err


@pytest.mark.slow
def test_gradients_stay_as_the_caller_has_them(package):
    run = load_package(package, "cpu")
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            run([torch.zeros(3, 8), torch.zeros(8, 8)])
            assert torch.is_grad_enabled() is enabled


@pytest.mark.slow
def test_a_graph_with_constants_keeps_the_interface_of_torch(tmp_path):
    """Torch's own loader reads it, and gives it its constants."""
    path = compiled(WithConstant(), (torch.zeros(16),), (None,), tmp_path / "constant.pt2")
    _, library = source_and_library(path)
    assert SWAP in library
    found = torch._inductor.aoti_load_package(str(path))(torch.ones(16))
    assert found.tolist() == [float(number) for number in range(1, 17)]


@pytest.fixture
def precompiled(monkeypatch, tmp_path):
    """What is precompiled, where nothing was before: header, command and options."""
    monkeypatch.setattr(kept_headers, "default_cache_dir", lambda: str(tmp_path))
    found = []

    def precompile(header, command, **options):
        found.append((header, command, options))
        return f"compiled {header}"

    monkeypatch.setattr(codecache, "_precompile_header", precompile)
    return found


def test_both_headers_are_precompiled_at_once(precompiled):
    with package_runtime.reduced(bytes):
        header = codecache._precompile_header(
            "w.h", "g++", min_optimize=True, device_type="cpu", vec_isa="avx2"
        )
    assert header == "compiled w.h"
    options = {"device_type": "cpu", "vec_isa": "avx2"}
    assert sorted(precompiled, key=str) == [
        ("torch/csrc/inductor/cpp_prefix.h", "g++", options),
        ("w.h", "g++", {**options, "min_optimize": True}),
    ]


def test_no_other_header_is_precompiled_with_that_of_kernels_or_for_a_gpu(precompiled):
    with package_runtime.reduced(bytes):
        codecache._precompile_header("k.h", "g++", device_type="cpu")
        codecache._precompile_header("w.h", "g++", min_optimize=True, device_type="cuda")
    assert [header for header, *_ in precompiled] == ["k.h", "w.h"]


@pytest.mark.slow
def test_the_installed_torch_asks_for_both_headers_as_expected(precompiled, monkeypatch, tmp_path):
    """What is precompiled ahead is what torch asks for next; a process would precompile two more otherwise."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(Exception, match="compiled "):  # g++ does not find it
        compiled(Scaled(), (torch.zeros(3, 8), torch.zeros(8, 8)), (None, None), tmp_path / "scaled.pt2")
    wrapper, kernels = (
        {str(asked) for asked in precompiled if asked[0].endswith(end)} for end in ("runtime.h", "prefix.h")
    )
    assert len(wrapper) == len(kernels) == 1
    assert len(precompiled) == 3


def test_a_source_that_has_neither_checks_nor_interface_stays_as_it_is():
    source = "int main() { return 0; }\n"
    assert package_runtime.reduce_source(source, own_interface=True) == source


COMPARE = r"""
#include <iostream>
#include <regex>
#include "device_name.h"

int main() {
  const std::regex pattern("(cpu|cuda|xpu|mps)(:([0-9]+))?");
  for (std::string line; std::getline(std::cin, line);) {
    std::smatch groups;
    const bool matched = std::regex_match(line, groups, pattern);
    mmbuild::Groups found;
    bool same = mmbuild::match_device(line, found) == matched;
    for (size_t group = 0; matched && group < found.size(); ++group) {
      same = same && found[group].matched == groups[group].matched && found[group].str() == groups[group].str();
    }
    std::cout << (same ? "same" : "different") << (matched ? " match\n" : " none\n");
  }
}
"""


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A program that answers, for each line, whether std::regex and the matcher agree."""
    directory = tmp_path_factory.mktemp("comparison")
    (directory / "compare.cpp").write_text(COMPARE)
    include = Path(package_runtime.__file__).parent
    subprocess.run(
        ["g++", "-std=c++20", f"-I{include}", directory / "compare.cpp", "-o", directory / "compare"],
        check=True,
    )
    return directory / "compare"


@pytest.mark.slow
@given(st.lists(st.text("cpudamsx:0123456789 ", max_size=8), min_size=50))
def test_names_of_devices_match_as_the_regular_expression_has_it(comparison, names):
    names = [*names, "cpu", "cuda", "cuda:0", "cuda:17", "mps:", "xpu:x", "", ":1", "cuda:1:2", "cuda:01"]
    answers = subprocess.run(
        [comparison], input="\n".join(names) + "\n", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(answers) == len(names)
    assert not [name for name, answer in zip(names, answers, strict=True) if answer.startswith("different")]
    assert "same match" in answers
