"""Builds, loads and calls one small package; the compiler check runs it in a separate process.

``python -m mmbuild.inspect.doctor.compile_probe DIRECTORY`` prints one line of JSON. It uses the functions
that build and load engines, for the CPU of this host.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

MARK = "mmbuild-compiled:"


def main(directory: Path) -> None:
    """Build, load and call the package; raises on any failure."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa, load_package
    from mmbuild.backends.torch.export import WithWeights, compile_package, export

    torch.manual_seed(0)
    module, x = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.SiLU()).eval(), torch.randn(3, 16)
    weights = {name: value.detach() for name, value in module.named_parameters()}
    started = time.monotonic()
    program = export(WithWeights(module, "forward", list(weights)), [x, *weights.values()], [None] * 3, "cpu")
    with torch.no_grad():
        expected = module(x)
    path = directory / "probe.pt2"
    compile_package(program, path, {"device": "cpu", "sm": None, "isa": cpu_isa()})
    compiled = time.monotonic()
    (actual,) = load_package(path, "cpu")([x, *weights.values()])
    if not torch.allclose(actual, expected, atol=1e-5):
        raise RuntimeError(f"the compiled package is off by {float((actual - expected).abs().max()):.3g}")
    loaded = time.monotonic()
    print(f"\n{MARK}" + json.dumps({"compile": compiled - started, "load": loaded - compiled}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
