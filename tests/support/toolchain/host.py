"""A host on which a TensorRT-LLM version seems to be installed: stand-in commands, GPUs, and a configuration.

Everything is found the way a user's is: programs in PATH, versions in the metadata of installed distributions, the
configuration by MMBUILD_CONFIG.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from support.toolchain import fake_pynvml
from support.toolchain.fake_tensorrt_llm.install import install

PYTHON = """\
#!/bin/sh
PYTHONPATH={site}; export PYTHONPATH
exec {python} "$@"
"""


def gpus(*, count: int = 2, mib: int = 143771) -> dict[str, str]:
    """Variables of a process that sees ``count`` GPUs."""
    return fake_pynvml.variables(
        *({**fake_pynvml.H200, "uuid": f"GPU-{at}", "mib": mib} for at in range(count))
    )


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


# Refuses a command that could not work in a container: a link that leads where nothing is mounted, a working
# directory that nothing may be written to. Only what was given with -e is in the environment.
ENGINE = """\
#!{real}
import os, sys
words = sys.argv[1:]
image = words.index({image!r})
given, mounts, workdir, gpus = {{}}, {{}}, None, None
for flag, word in zip(words[:image], words[1 : image + 1]):
    if flag == "-e":
        name, equals, value = word.partition("=")
        given[name] = value if equals else os.environ[name]
    elif flag == "--mount":
        fields = dict(field.partition("=")[::2] for field in word.split(","))
        assert fields["type"] == "bind" and fields["src"] == fields["dst"], word
        mounts[fields["src"]] = "readonly" not in fields
    elif flag == "-w":
        workdir = word
    elif flag == "--gpus":
        gpus = word
inside = lambda path: [place for place in mounts if path == place or path.startswith(place + "/")]
assert any(mounts[place] for place in inside(workdir)), "the working directory is not writable"
for directory, names, files in os.walk(workdir):
    for name in names + files:
        path = os.path.join(directory, name)
        if os.path.islink(path):
            assert inside(os.path.realpath(path)), path + " leads to " + os.path.realpath(path)
assert gpus is not None or words[image + 1] == "python3", "no GPU was given"
os.chdir(workdir)
command = words[image + 1 :]
os.execvpe(command[0], command, {{**given, "PATH": {programs!r} + os.pathsep + os.environ["PATH"]}})
"""
IMAGE = "tensorrt-llm:stand-in"


def contained(entry: dict[str, object], directory: Path) -> dict[str, object]:
    """``entry`` of :func:`environment` as a container, with a docker in ``directory`` that must come in PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    programs = str(Path(str(entry["python"])).parent)
    docker = directory / "docker"
    docker.write_text(ENGINE.format(real=sys.executable, image=IMAGE, programs=programs), "utf-8")
    docker.chmod(0o755)
    return {"container": {"engine": "docker", "image": IMAGE}, "examples": entry["examples"]}
