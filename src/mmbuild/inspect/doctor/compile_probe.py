"""Builds, loads and calls one small package; the compiler check runs it in a separate process.

``python -m mmbuild.inspect.doctor.compile_probe DIRECTORY`` prints one line of JSON. It uses the functions
that build and load engines, for the CPU of this host.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from pathlib import Path

MARK = "mmbuild-compiled:"


def main(directory: Path) -> None:
    """Build, load and call the package; raises on any failure."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa, load_package
    from mmbuild.backends.torch.export import compile_package
    from mmbuild.backends.torch.package_shapes import PACKAGE_PREFIX

    torch.manual_seed(0)
    parts = {"model": torch.nn.Linear(16, 16), "activation": torch.nn.SiLU()}
    module, x = torch.nn.Sequential(OrderedDict(parts)).eval(), torch.randn(3, 16)
    started = time.monotonic()
    with torch.no_grad():
        program = torch.export.export(module, (x,))
        expected = module(x)
    path = directory / "probe.pt2"
    compile_package(program, path, {"device": "cpu", "sm": None, "isa": cpu_isa()})
    compiled = time.monotonic()
    # Bound by checkpoint names, as in an engine.
    constants = {
        name.removeprefix(PACKAGE_PREFIX): value.detach() for name, value in module.named_parameters()
    }
    package = load_package(path, constants, "cpu")
    actual = package(x)
    if not torch.allclose(actual, expected, atol=1e-5):
        raise RuntimeError(f"the compiled package is off by {float((actual - expected).abs().max()):.3g}")
    loaded = time.monotonic()
    print(f"\n{MARK}" + json.dumps({"compile": compiled - started, "load": loaded - compiled}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
