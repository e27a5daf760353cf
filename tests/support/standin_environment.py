"""A host on which a TensorRT-LLM version seems to be installed: stand-in commands, a driver, and a configuration.

Everything is found the way a user's is: programs in PATH, versions in the metadata of installed distributions, the
configuration by MMBUILD_CONFIG.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from standin_toolchain.install import install

from mmbuild.toolchains.load import load_toolchain

GPU = "GPU-00000000-0000-0000-0000-000000000001"

DRIVER = """\
#!/bin/sh
case "$1" in
*compute_cap*) echo {cap} ;;
*uuid*) for n in $(seq {count}); do echo GPU-00000000-0000-0000-0000-00000000000$n; done ;;
*) exit 6 ;;
esac
"""

PYTHON = """\
#!/bin/sh
PYTHONPATH={site}; export PYTHONPATH
exec {python} "$@"
"""


def driver(directory: Path, *, cap: str = "9.0", count: int = 2) -> Path:
    """An nvidia-smi that knows ``count`` GPUs; the directory that must be in PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "nvidia-smi"
    program.write_text(DRIVER.format(cap=cap, count=count), "utf-8")
    program.chmod(0o755)
    return directory


def environment(version: str, root: Path) -> dict[str, object]:
    """Programs, distributions and scripts of ``version`` below ``root``; its entry of a configuration."""
    checkout, programs = install(version, root)
    site = root / "site"
    toolchain = load_toolchain(version)
    for name, specifier in toolchain.pins.items():
        _distribution(site, name, satisfying(specifier))
    # A checkout at the toolchain's tag.
    git = ["git", "-C", str(checkout), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "scripts"], check=True)
    if not re.fullmatch(r"[0-9a-f]{40}", toolchain.source.revision):
        subprocess.run([*git, "tag", toolchain.source.revision], check=True)
    python = programs / "python"
    inner = python.read_text("utf-8").split()[2]
    python.write_text(PYTHON.format(site=site, python=inner), "utf-8")
    (programs / "python3").symlink_to("python")
    return {"python": str(python), "examples": str(checkout)}


def configure(path: Path, toolchains: dict[str, dict[str, object]]) -> Path:
    """A configuration file that names ``toolchains``."""
    import yaml

    path.write_text(yaml.safe_dump({"toolchains": toolchains}), "utf-8")
    return path


def satisfying(specifier: str) -> str:
    """A version that meets a specifier of the toolchain files: its first bound, or just below an upper one."""
    for clause in filter(None, specifier.split(",")):
        found = re.fullmatch(r"(==|~=|>=|<=|<)(.*)", clause.strip())
        assert found is not None, specifier
        operator, version = found.groups()
        return f"{int(version.split('.')[0]) - 1}.0" if operator == "<" else version
    return "1.0"


def _distribution(site: Path, name: str, version: str) -> None:
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir(parents=True)
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
