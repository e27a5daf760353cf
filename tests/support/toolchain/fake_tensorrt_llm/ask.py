"""run.py: it answers nothing, and stops where the engines are for another number of ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RANKS = "STANDIN_RANKS"


def ask(flags: dict[str, Any], cwd: Path, environment: Mapping[str, str]) -> None:
    engines = (
        cwd / flags["--llm_engine_dir"]
        if "--llm_engine_dir" in flags
        else cwd / flags["--engine_dir"] / "llm"
    )
    configs = sorted(engines.glob("config.json")) or sorted(engines.glob("*/config.json"))
    if not configs:
        raise FileNotFoundError(engines / "config.json")
    started = int(environment.get(RANKS, "1"))
    for path in configs:
        config = json.loads(path.read_text("utf-8"))
        legacy = config.get("builder_config", {}).get("tensor_parallel")
        built = legacy if legacy is not None else config["pretrained_config"]["mapping"]["world_size"]
        assert built == started, f"Engine world size ({built}) != Runtime world size ({started})"
    print("[A]: ['a stand-in has no answer']")
