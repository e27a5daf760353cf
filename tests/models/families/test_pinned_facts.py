"""Facts of the recorded configs and the demo models stay what they are: every key of a build rests on them.

A digest changes where a config.json was read wrongly before; then the new one is written here, with the reason in the
commit.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mmbuild.base.canonical_json import hash_json
from mmbuild.models.families import family
from mmbuild.models.sources.config import recorded_models

DEMO = Path(__file__).parents[3] / "examples" / "models"
# Family, model, second source, and the first characters of the digest of their facts.
PINNED = [
    ("blip2-t5", "Salesforce--blip2-flan-t5-xl", None, "3445467efe256163"),
    ("blip2-t5", "Salesforce--blip2-flan-t5-xxl", None, "b403790f2ced4b4f"),
    ("blip2-t5", "google--flan-t5-xl", "Salesforce--blip2-flan-t5-xl", "b7dd5921442089b7"),
    ("blip2-t5", "google--flan-t5-xxl", "Salesforce--blip2-flan-t5-xxl", "836549f211c72f37"),
    ("blip2-t5", "blip2-t5-shapes", None, "55a181c998900405"),
    ("blip2-opt", "Salesforce--blip2-opt-2.7b", None, "a0c46507e4091d6a"),
    ("blip2-opt", "Salesforce--blip2-opt-6.7b", None, "dd371e5afb01c315"),
    ("blip2-opt", "facebook--opt-2.7b", "Salesforce--blip2-opt-2.7b", "ff5f8f271854247f"),
    ("blip2-opt", "facebook--opt-6.7b", "Salesforce--blip2-opt-6.7b", "3eb59254bb666daa"),
    ("blip2-opt", "blip2-opt-shapes", None, "6bc9090283bf7d25"),
    ("llava", "llava-hf--llava-1.5-13b-hf", None, "c52d7c3add03222d"),
    ("llava", "llava-hf--llava-1.5-7b-hf", None, "d44221c6d13c87b8"),
    ("llava", "llava-shapes", None, "c04ebb20f803ff4a"),
    ("vila", "Efficient-Large-Model--VILA1.5-3b", None, "9f93d525c66732d1"),
    ("vila", "Efficient-Large-Model--vila-13B", "openai--clip-vit-large-patch14-336", "95f886434c67b2f6"),
    ("vila", "Efficient-Large-Model--vila-2.7B", "openai--clip-vit-large-patch14-336", "28ac8a48bba13668"),
    ("vila", "Efficient-Large-Model--vila-7B", "openai--clip-vit-large-patch14-336", "bf48576e6ee56e65"),
    ("vila", "vila-shapes", None, "3fdf048abc718f67"),
    ("nougat", "facebook--nougat-base", None, "3f78e490a3e1da4a"),
    ("nougat", "facebook--nougat-small", None, "7f447ade74d37c04"),
    ("nougat", "nougat-pages", None, "29a9758649a7dff3"),
]


def config_of(model: str) -> dict[str, Any]:
    recorded = files("mmbuild.models.families").joinpath("recorded", f"{model}.json")
    file = recorded if recorded.is_file() else DEMO / model / "config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(("name", "model", "second", "digest"), PINNED)
def test_facts_are_pinned(name: str, model: str, second: str | None, digest: str) -> None:
    facts = family(name).facts(config_of(model), None if second is None else config_of(second))
    assert hash_json(json.loads(json.dumps(asdict(facts))))[:16] == digest


def test_every_recorded_and_every_demo_model_is_among_them() -> None:
    pinned = {model for _, model, second, _ in PINNED} | {second for _, _, second, _ in PINNED if second}
    recorded = {repo.replace("/", "--", 1) for repo in recorded_models()}
    assert pinned == recorded | {directory.name for directory in DEMO.iterdir()}
