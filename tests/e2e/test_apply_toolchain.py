"""Recipes for TensorRT-LLM through the command line: refused if it is missing, built and run if it is installed.

TensorRT-LLM is faked by programs with its flags; their engines do not answer questions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.toolchain.host import configure, contained, environment, gpus

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/llava-int4.yaml"
NAME = "llava-1.5-7b-int4"
# The demo model in place of 14 GB, with the lengths that it has room for.
SMALL = (
    "--set=model={family: llava, source: ./examples/models/llava-shapes}",
    "--set=engine.max_multimodal_len=null",
    "--set=engine.max_input_len=100",
    "--set=engine.max_output_len=20",
)
VERSIONS = ("1.2", "0.12.0")


class Host:
    """A machine with its own store; ``variables`` describe what is installed on it."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.engine = root / "build" / NAME
        self.places = ("--store", str(root / "store"), "--build-dir", str(root / "build"))
        self.variables = {
            **os.environ,
            "NO_COLOR": "1",
            "MMBUILD_CONFIG": str(root / "none.yaml"),
            **variables,
        }

    def run(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mmbuild", *map(str, arguments)],
            cwd=ROOT,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def apply(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("apply", RECIPE, *arguments, *self.places, status=status)

    def downloaded(self) -> list[Path]:
        """Files of the store but its version and its notes on the user's own files."""
        found = (path for path in (self.root / "store").rglob("*") if path.is_file())
        return [path for path in found if path.name != "VERSION" and not path.name.startswith("stat.db")]


@pytest.fixture(scope="module")
def toolchains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    root = tmp_path_factory.mktemp("toolchains")
    return {version: environment(version, root / version) for version in VERSIONS}


@pytest.fixture
def host(tmp_path: Path, toolchains: dict[str, dict[str, object]]) -> Host:
    """Two GPUs, and two versions of TensorRT-LLM."""
    config = configure(tmp_path / "config.yaml", toolchains)
    return Host(tmp_path, MMBUILD_CONFIG=str(config), **gpus())


def test_without_tensorrt_llm_apply_stops_before_any_download(tmp_path: Path) -> None:
    host = Host(tmp_path)
    reported = host.apply(status=1).stderr
    assert "MM702" in reported
    assert "TensorRT-LLM 1.2, which is not ready on this host; nothing was downloaded" in reported
    assert "environment  not configured" in reported
    assert "mmbuild config set-toolchain 1.2" in reported
    assert "--set engine.backend=torch" in reported
    assert len(reported.splitlines()) < 24
    assert max(map(len, reported.splitlines())) < 200
    assert host.downloaded() == []


def test_the_suggested_alternative_works(tmp_path: Path) -> None:
    host = Host(tmp_path)
    plan = host.run("plan", RECIPE, "--offline", "--set", "engine.backend=torch", *host.places).stdout
    assert f"{NAME}/quantize" in plan


def test_a_plan_needs_no_tensorrt_llm(tmp_path: Path) -> None:
    plan = Host(tmp_path).run("plan", RECIPE, "--offline", "--store", tmp_path / "store").stdout
    assert [line.split()[1].partition("/")[2] for line in plan.splitlines() if f" {NAME}/" in line] == [
        "download",
        "convert",
        "build_llm",
        "build_visual",
        "assemble",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_with_tensorrt_llm_it_is_built_run_and_then_up_to_date(host: Host, version: str) -> None:
    chosen = (*SMALL, f"--set=engine.tensorrt_llm.toolchain='{version}'")
    host.apply(*chosen)
    manifest = json.loads((host.engine / "manifest.json").read_text("utf-8"))
    built = {action["label"].partition("/")[2]: action for action in manifest["actions"]}
    assert list(built) == ["download", "convert", "build_llm", "build_visual", "assemble"]
    assert built["build_llm"]["target"]["sm"] == 90
    assert built["build_llm"]["toolchain"]["tensorrt_llm"].startswith(version)
    assert (host.engine / "llm" / "rank0.engine").is_file()

    picture = host.root / "a picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    requested = host.run("run", host.engine, "--image", picture, "--prompt", "how many?")
    assert requested.stdout == "a stand-in has no answer\n"

    data = host.root / "questions.jsonl"
    data.write_text(
        json.dumps({"image": picture.name, "prompt": "why?", "answer": "Stand-in has no answer."})
    )
    result = json.loads(host.run("eval", host.engine, "--data", data, "--json").stdout)
    assert result["answers"][0]["scores"] == {"exact": 0, "normalized": 1, "f1": 1}
    assert "MM705" in host.run("eval", host.engine, "--data", data, "--batch", "1", status=2).stderr

    assert "up to date" in host.apply(*chosen).stderr
    compat = json.loads(host.run("compat", host.engine, "--json").stdout)
    assert version in json.dumps(compat)


def test_another_precision_keeps_the_visual_engine(host: Host) -> None:
    host.apply(*SMALL)
    plan = host.run("plan", RECIPE, *SMALL, "--set=engine.quantization=int8", *host.places).stdout
    verdicts = {line.split("/")[1].split()[0]: line.split()[0] for line in plan.splitlines() if "/" in line}
    assert verdicts["build_visual"] != "run"
    assert verdicts["convert"] == verdicts["build_llm"] == "run"


def test_options_of_the_embedded_engine_are_refused_for_engines_of_tensorrt_llm(host: Host) -> None:
    host.apply(*SMALL)
    reported = host.run("run", host.engine, "--prompt", "why", "--temperature", "0.5", status=2).stderr
    assert "MM705" in reported
    assert "--temperature" in reported
    reported = host.run("verify", host.engine, "--prompt", "why", status=2).stderr
    assert "MM705" in reported


def test_an_engine_is_not_run_without_its_toolchain(host: Host) -> None:
    host.apply(*SMALL)
    host.variables["MMBUILD_CONFIG"] = str(host.root / "none.yaml")
    assert "MM704" in host.run("run", host.engine, "--prompt", "why", status=1).stderr


def test_a_gpu_of_another_architecture_is_reported_before_anything_runs(host: Host) -> None:
    reported = host.apply(*SMALL, "--set=target={device: cuda, sm: 80}", status=1).stderr
    assert "MM702" in reported
    assert "target.sm is 80" in reported
    assert host.downloaded() == []


def test_a_gpu_that_is_too_small_is_reported_before_anything_runs(host: Host) -> None:
    host.variables |= gpus(mib=100)
    reported = host.apply(*SMALL, status=1).stderr
    assert "MM317" in reported
    assert "of GPU memory, a GPU here has 0.1 GB" in reported
    assert host.downloaded() == []
    host.apply(*SMALL, "--ignore-estimates")


def test_a_wrong_pin_is_reported_with_the_command_that_fixes_it(
    host: Host, toolchains: dict[str, dict[str, object]]
) -> None:
    site = Path(str(toolchains["1.2"]["python"])).parents[1] / "site"
    (metadata,) = site.glob("tensorrt-*.dist-info")
    wrong = site / "tensorrt-9.0.0.dist-info"
    text = (metadata / "METADATA").read_text("utf-8")
    metadata.rename(wrong)
    (wrong / "METADATA").write_text(
        text.replace(metadata.name.split("-")[1].removesuffix(".dist"), "9.0.0"), "utf-8"
    )
    try:
        reported = host.apply(*SMALL, status=1).stderr
        assert "tensorrt " in reported
        assert "9.0.0" in reported
        assert "pip install" in reported
    finally:
        wrong.rename(metadata)
        (metadata / "METADATA").write_text(text, "utf-8")


def test_a_failing_command_ends_apply_with_its_own_words_and_keeps_what_is_done(
    host: Host, tmp_path: Path, toolchains: dict[str, dict[str, object]]
) -> None:
    entry = {**toolchains["1.2"], "variables": {"STANDIN_FAULTS": "table"}}
    faulty = configure(tmp_path / "faulty.yaml", {"1.2": entry})
    right, host.variables["MMBUILD_CONFIG"] = host.variables["MMBUILD_CONFIG"], str(faulty)
    reported = host.apply(*SMALL, status=1).stderr
    assert "MM653" in reported
    assert "max_prompt_embedding_table_size" in reported
    host.variables["MMBUILD_CONFIG"] = right
    host.apply(*SMALL)


def test_a_container_sees_what_its_commands_need_and_nothing_more(
    host: Host, tmp_path: Path, toolchains: dict[str, dict[str, object]]
) -> None:
    """The stand-in for docker refuses links that lead out of the mounts, and passes no variable but those given."""
    entry = contained(toolchains["1.2"], tmp_path / "engines")
    configured = configure(tmp_path / "container.yaml", {"1.2": entry})
    host.variables["MMBUILD_CONFIG"] = str(configured)
    host.variables["PATH"] = f"{tmp_path / 'engines'}{os.pathsep}{host.variables['PATH']}"
    host.apply(*SMALL, "--set=engine.tensor_parallel=2")
    requested = host.run("run", host.engine, "--prompt", "how many?", "--json")
    assert json.loads(requested.stdout)["answers"][0]["text"] == "a stand-in has no answer"
    assert host.run("verify", host.engine).stdout == "a stand-in has no answer\n"


FITTED = "recipes/demo/llava-awq.yaml"
# What this version's own quantizer refuses for LLaVA; the smallest calibration, in a dtype that its reader takes.
ON_PICTURES = (
    "--set=engine.backend=tensorrt-llm",
    "--set=engine.tensorrt_llm.toolchain='0.12.0'",
    "--set=engine.quantization.algorithm=smoothquant",
    "--set=engine.dtype=float16",
    "--set=engine.quantization.calibration.samples=1",
)


def test_an_engine_of_tensorrt_llm_is_built_from_what_mmbuild_calibrated_on_pictures(host: Host) -> None:
    host.run("apply", FITTED, *ON_PICTURES, *host.places)
    engine = host.root / "build/llava-shapes-awq"
    manifest = json.loads((engine / "manifest.json").read_text("utf-8"))
    built = {action["label"].partition("/")[2]: action for action in manifest["actions"]}
    assert set(built) == {"download", "quantize", "build_llm", "build_visual", "assemble", "verify"}
    assert (built["quantize"]["target"]["device"], built["build_llm"]["target"]["sm"]) == ("cpu", 90)
    assert "nvidia-modelopt" in built["quantize"]["toolchain"]
    # The stand-in for trtllm-build copies the config that it read.
    config = json.loads((engine / "llm/config.json").read_text("utf-8"))["pretrained_config"]
    assert config["producer"] == "mmbuild"
    assert config["quantization"]["quant_algo"] == "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"

    def plan(*chosen: str) -> dict[str, str]:
        shown = host.run("plan", FITTED, *chosen, *host.places).stdout
        return {line.split("/")[1].split()[0]: line.split()[0] for line in shown.splitlines() if "/" in line}

    assert set(plan(*ON_PICTURES).values()) == {"up"}
    # Backend torch reads the same checkpoint.
    assert plan(*ON_PICTURES[1:])["quantize"] == "up"
    assert "MM174" in host.run("script", FITTED, *ON_PICTURES, status=1).stderr
