"""What a compiled package holds besides the code of its graph, reduced to what mmbuild calls.

AOTInductor puts its whole runtime into every library: containers that swap weights, checks of inputs, a regular
expression. g++ takes 5 s for that, and less than 1 s for what is here. It depends on what torch generates, so what is
not found there stays as torch has it, and compiles in the time that torch needs.
"""

from __future__ import annotations

import contextvars
import functools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from torch._inductor import codecache
from torch._inductor.codegen import cpp_wrapper_cpu

from mmbuild.backends.torch.package_runtime import kept_headers, link_stub

_HERE = Path(__file__).parent
_RUNTIME, _INTERFACE = _HERE / "runtime.h", _HERE / "interface.cpp"
# A function that compares an input with what was compiled for; only AOTI_RUNTIME_CHECK_INPUTS=1 calls them.
# mmbuild compares shapes before it calls, and reads them from these functions in the package (package_shapes): they
# stay there, and are not compiled.
_CHECK = re.compile(r"^AOTI_NOINLINE static void check_input_\d+\(\n.*?^}\n", re.MULTILINE | re.DOTALL)
_CHECK_CALL = re.compile(r"^ *check_input_\d+\(input_handles\);\n", re.MULTILINE)


@contextmanager
def reduced(surroundings: Callable[[], bytes]) -> Iterator[None]:
    """Libraries that are compiled meanwhile hold the reduced runtime.

    Those that call operators of torch, or hold constants, keep torch's interface: its loader must be able to read
    them.

    Args:
        surroundings: Digest of torch, the compiler and mmbuild's code, which precompiled headers are kept by.
    """
    compile_library = codecache.AotCodeCompiler.compile

    def compile_reduced(graph: Any, wrapper: str, kernels: str, operators: str | None, **rest: Any) -> Any:
        wrapper = reduce_source(wrapper, own_interface=not (operators or graph.constants))
        with link_stub.linked() if rest["device_type"] == "cpu" else nullcontext():
            return compile_library(graph, wrapper, kernels, operators, **rest)

    precompile = kept_headers.remembered(codecache._precompile_header, surroundings)
    with (
        mock.patch.object(codecache, "_precompile_header", _both_headers(precompile)),
        mock.patch.object(codecache, "write", _with_stack_note(codecache.write)),
        mock.patch.object(codecache.AotCodeCompiler, "compile", compile_reduced),
        mock.patch.object(codecache, "_get_cpp_wrapper_header", return_value=os.fspath(_RUNTIME)),
    ):
        yield


# Without it, ld asks for an executable stack; glibc refuses to load such a library since 2.41, says its announcement.
_STACK_NOTE = '\t.section\t.note.GNU-stack,"",@progbits\n'


def _with_stack_note(write: Callable[..., Any]) -> Callable[..., Any]:
    """``write``, which also says in assembler sources, those of constants, that they need no executable stack."""

    def write_noted(content: Any, extension: str, *rest: Any, **named: Any) -> Any:
        return write(content + _STACK_NOTE if extension.endswith("S") else content, extension, *rest, **named)

    return write_noted


def _both_headers(precompile: Callable[..., str]) -> Callable[..., str]:
    """``precompile``, which also precompiles the header of kernels while it does that of wrappers.

    g++ takes 5 s for each, the first time on a machine, and Inductor calls it for one after the other.
    """

    def precompile_both(header: str, command: str, **options: Any) -> str:
        of_kernels = codecache._get_cpp_prefix_header(options["device_type"])
        if "min_optimize" not in options or of_kernels is None:
            return precompile(header, command, **options)
        others = {name: value for name, value in options.items() if name != "min_optimize"}
        with ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, partial(precompile, of_kernels, command, **others))
            return precompile(header, command, **options)

    return precompile_both


def reduce_source(wrapper: str, *, own_interface: bool) -> str:
    """The C++ source of a package with the checks of its inputs, which are not compiled.

    Args:
        wrapper: As Inductor generates it.
        own_interface: Whether the C interface of torch is replaced by ours, a subset.
    """
    wrapper = _CHECK_CALL.sub("", _CHECK.sub(r"#if 0\n\g<0>#endif\n", wrapper))
    return wrapper.replace(_interface_of_torch(), _INTERFACE.read_text("utf-8")) if own_interface else wrapper


@functools.cache
def _interface_of_torch() -> str:
    directory = Path(cpp_wrapper_cpu.__file__).parent
    return (directory / "aoti_runtime" / "interface.cpp").read_text("utf-8")
