"""The visual builder of each version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ENGINE = b"stand-in visual engine\n"
FILES = {"1.2": "model.engine"}
WITHOUT_CONFIG = ("0.9.0",)


def build_visual(version: str, flags: dict[str, Any], cwd: Path, faults: frozenset[str]) -> None:
    model = Path(flags["--model_path"]).name
    given = flags.get("--output_dir")
    if version == "0.10.0" and given is None:
        model = model.split(".")[0]
    out = cwd / (given if given is not None else f"visual_engines/{model}")
    out.mkdir(parents=True, exist_ok=True)
    if "onnx" in faults:
        print("[TRT] [E] Failed parsing onnx/visual_encoder.onnx")
        print("[TRT] [E] In node 0 with name: and operator: Conv (importConv): UNSUPPORTED_NODE")
    print("[TRT] [I] Succeeded parsing onnx/visual_encoder.onnx")
    if "missing_rank" not in faults:
        (out / FILES.get(version, "visual_encoder.engine")).write_bytes(ENGINE)
    if version in WITHOUT_CONFIG:
        return
    config: dict[str, Any] = {
        "precision": "float32" if "dtype" in faults else "float16",
        "tensor_parallel": 1,
        "model_type": "another" if "model" in faults else _model_type(version, flags),
    }
    if version == "1.2":
        config["max_batch_size"] = flags.get("--max_batch_size", 4) + ("batch" in faults)
    text = json.dumps({"builder_config": config})
    (out / "config.json").write_text(text[: len(text) // 2] if "broken_config" in faults else text, "utf-8")


def _model_type(version: str, flags: dict[str, Any]) -> str:
    kind: str = flags["--model_type"]
    if version == "0.9.0.dev2024040900" and kind.startswith(("opt", "flan")):
        return f"Salesforce/blip2-{kind}"
    if kind == "blip2":
        return "blip2-t5" if "t5" in flags["--model_path"] else "blip2-opt"
    return kind
