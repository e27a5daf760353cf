"""Step toolchain_engine: logs and records generation settings that TensorRT-LLM's runner does not get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmbuild.backends.engine_dir import description
from mmbuild.core.steps.context import StepContext
from mmbuild.models.files.generation_settings import SettingsError
from mmbuild.steps import assemble_toolchain
from support.errors import refused


def built(root: Path, written: dict[str, Any], **params: Any) -> description.Description:
    for name in ("model", "llm", "visual", "out"):
        (root / name).mkdir()
    (root / "model" / "config.json").write_text("{}")
    (root / "model" / "generation_config.json").write_text(json.dumps(written))
    known = {
        "family": "llava",
        "tensor_parallel": 1,
        "variables": {"visual_max_batch_size": 1, "max_beam_width": 1, "vocab_size": 100},
        "places": {},
        "versions": {"tensorrt-llm": "1.2"},
        "files": {},
        **params,
    }
    inputs = {name: root / name for name in ("model", "llm", "visual")}
    assemble_toolchain.run(
        StepContext(params=known, inputs=inputs, out=root / "out", target={"device": "cuda"})
    )
    return description.read(root / "out")


WRITTEN = {"eos_token_id": [2, 7], "repetition_penalty": 1.2, "guidance_scale": 3.0, "length_penalty": 2.0}


def test_settings_that_the_runner_does_not_get_are_logged_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = built(tmp_path, WRITTEN)
    assert described.settings_not_applied == {
        "eos_token_id": [2, 7],
        "repetition_penalty": 1.2,
        "guidance_scale": 3.0,
    }
    out = capsys.readouterr().out
    assert out.count("[MM725]") == 2
    assert out.count("[MM720]") == 1


def test_only_end_tokens_of_ignored_settings_are_recorded(tmp_path: Path) -> None:
    assert built(tmp_path, WRITTEN, generation_config="ignore").settings_not_applied == {
        "eos_token_id": [2, 7]
    }


def test_settings_of_the_wrong_type_are_rejected(tmp_path: Path) -> None:
    refused(SettingsError, "MM721", built, tmp_path, {"eos_token_id": "</s>"})
