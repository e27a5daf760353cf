"""A library that packages are linked with instead of torch's.

ld reads all symbols of libtorch_cpu.so, of 400 MB, to link a library that takes its functions from there when it is
loaded: a third of a second per package. The stub has the same name, so a package asks for the same library, and one
function that every package calls, or linkers that leave out what is not needed would leave it out.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from torch._inductor import cpp_builder
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from mmbuild.backends.torch.package_runtime.private_directory import private_directory

_NAME = "libtorch_cpu.so"
_SOURCE = "int aoti_torch_device_type_cpu(void) { return 0; }\n"


@contextmanager
def linked() -> Iterator[None]:
    """Libraries that are linked meanwhile are linked with the stub."""
    arguments, directory = cpp_builder._get_torch_related_args, _directory()

    def with_stub(include_pytorch: bool, aot_mode: bool) -> tuple[list[str], list[str], list[str]]:
        headers, places, libraries = arguments(include_pytorch=include_pytorch, aot_mode=aot_mode)
        return headers, [os.fspath(directory), *places] if directory else places, libraries

    with mock.patch.object(cpp_builder, "_get_torch_related_args", with_stub):
        yield


@functools.cache
def _directory() -> Path | None:
    """Directory of the stub, which is compiled the first time; None if it cannot be.

    It is next to Inductor's precompiled headers, whose names depend on the whole command.
    """
    directory = private_directory(Path(default_cache_dir()) / f"mmbuild-link-{platform.machine()}")
    try:
        if directory and not (directory / _NAME).exists():
            _compile(directory)
    except (OSError, subprocess.CalledProcessError):
        return None
    return directory


def _compile(directory: Path) -> None:
    """Compile the stub to ``directory``."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        source, library = Path(place, "stub.c"), Path(place, _NAME)
        source.write_text(_SOURCE, "utf-8")
        options = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{_NAME}", "-x", "c"]
        command = [cpp_builder.get_cpp_compiler(), *options, source, "-o", library]
        subprocess.run(command, check=True, capture_output=True)
        library.replace(directory / _NAME)
