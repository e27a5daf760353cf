"""``mmbuild compat`` as a user sees it: engine directories with a description and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmbuild.backends.engine_dir.description import Description, write
from mmbuild.base import host
from mmbuild.cli import main
from support.toolchain import fake_pynvml
from support.toolchain.environments import make_python

TORCH = host.installed_versions(("torch",))["torch"]
INSIDE = {"tensorrt_llm": "0.9.0", "tensorrt": "9.3.0.post12.dev1"}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two GPUs of SM 90, as its driver reports, and no configuration."""
    fake_pynvml.install(monkeypatch, *({**fake_pynvml.H200, "uuid": f"GPU-{at}"} for at in range(2)))
    monkeypatch.setenv("MMBUILD_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def engine(backend: str, target: dict[str, object], toolchain: dict[str, str], ranks: int = 1) -> None:
    """An engine directory ``build`` with a description but no files."""
    Path("build").mkdir()
    description = Description(
        family="llava",
        backend=backend,
        llm={"tensor_parallel": ranks},
        visual={},
        target=target,
        toolchain=toolchain,
        image_token_id=None,
        eos_token_ids=(),
    )
    write(Path("build"), description)


def for_this_cpu(torch: str = TORCH) -> None:
    engine("torch", {"device": "cpu", "sm": None, "isa": "generic"}, {"torch": torch})


def for_toolchain(sm: int = 90) -> None:
    versions = {"tensorrt-llm": "0.9.0", **INSIDE}
    engine("tensorrt-llm", {"device": "cuda", "sm": sm, "isa": None}, versions, ranks=2)


def test_an_engine_for_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    for_this_cpu()
    assert main(["compat", "build", "--exit-code"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "build: llava, backend torch"
    assert lines[1].split() == ["ok", "torch", "needs", f"{TORCH};", "here", TORCH]
    assert lines[2].startswith("  ok       cpu    needs generic instructions; here ")


def test_engine_for_another_torch_is_reported_and_fails_with_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for_this_cpu(torch="1.0.0")
    assert main(["compat", "build"]) == 0
    assert "pip install 'torch==1.0.0'" in capsys.readouterr().out
    assert main(["compat", "build", "--exit-code"]) == 1


def test_the_old_check_still_fails_and_names_the_new_option(capsys: pytest.CaptureFixture[str]) -> None:
    for_this_cpu(torch="1.0.0")
    assert main(["compat", "build", "--check"]) == 1
    assert "note: `--check` is now `--exit-code`" in capsys.readouterr().err
    assert main(["compat", "build", "--no-check"]) == 0
    assert capsys.readouterr().err == ""


def test_toolchain_engine_is_checked_against_its_environment(
    capsys: pytest.CaptureFixture[str], alone: Path
) -> None:
    for_toolchain()
    assert main(["compat", "build", "--exit-code"]) == 1
    assert "mmbuild config set-toolchain 0.9.0" in capsys.readouterr().out
    python = make_python(alone / "venv", INSIDE)
    Path("config.yaml").write_text(f"toolchains: {{0.9.0: {{python: {python}, examples: /e}}}}\n", "utf-8")
    assert main(["compat", "build", "--exit-code"]) == 0
    python.unlink()
    assert main(["compat", "build", "--exit-code"]) == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    for_toolchain(sm=80)
    assert main(["compat", "build", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["backend"], document["fits"]) == (1, "tensorrt-llm", False)
    rows = {row["name"]: row for row in document["checks"]}
    assert (rows["gpu"]["status"], rows["gpu"]["wanted"]) == ("fail", "SM 80, exactly")
    assert rows["gpu"]["found"] == "SM 90, SM 90"
    assert rows["driver"]["status"] == "ok"


def test_a_tensorrt_visual_engine(capsys: pytest.CaptureFixture[str], alone: Path) -> None:
    for_this_cpu()
    visual = alone / "build" / "visual"
    visual.mkdir()
    described = {"backend": "tensorrt", "tensorrt": {"version": "8.6.0", "sm": 90}}
    (visual / "visual.json").write_text(json.dumps(described), "utf-8")
    python = make_python(alone / "venv", {"tensorrt": "8.6.0", "numpy": "1.26.4"})
    Path("config.yaml").write_text(f"tensorrt: {{python: {python}}}\n", "utf-8")
    assert main(["compat", "build", "--exit-code"]) == 0
    described["tensorrt"] = {"version": "10.1.0", "sm": 90}
    (visual / "visual.json").write_text(json.dumps(described), "utf-8")
    assert main(["compat", "build", "--exit-code"]) == 1
    assert "tensorrt (visual)" in capsys.readouterr().out


def test_directory_that_is_not_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compat", "nowhere"]) == 1
    assert "[MM540]" in capsys.readouterr().err


def test_it_loads_neither_torch_nor_the_engine() -> None:
    for_this_cpu()
    program = (
        "import sys; from mmbuild.cli import main; main(['compat', 'build'])\n"
        "sys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
