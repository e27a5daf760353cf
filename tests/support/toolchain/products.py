"""Recipes taken through the stand-in toolchain, with findings after each command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mmbuild.backends.tensorrt_llm.output_checks.check import check
from mmbuild.backends.tensorrt_llm.output_checks.expectations import expect
from mmbuild.backends.tensorrt_llm.output_checks.files import ProductError
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.models.sources.config import parse_source, read_config
from mmbuild.schema.resolved import ResolvedRecipe
from support.toolchain.cases import RECIPES
from support.toolchain.fake_tensorrt_llm.main import run

MADE = ("convert", "quantize", "build_llm", "build_visual")


def fetchable(variant: ResolvedRecipe) -> bool:
    """Whether the model is on the hub, so that its config.json is recorded."""
    return parse_source(variant.recipe.model.source).kind == "hub"


def fetch(variant: ResolvedRecipe, version: str, root: Path) -> None:
    """The model's config.json where the download would put it."""
    toolchain = load_toolchain(version)
    known = variables(variant, toolchain)
    model = root / toolchain.workdir / known["model_dir"]
    model.mkdir(parents=True)
    whole = toolchain.families[variant.facts.family].weights == "whole" and known["vision_source"] is not None
    source = known["vision_source"] if whole else known["source"]
    config = read_config(source, None, RECIPES, offline=True)
    (model / "config.json").write_text(json.dumps(dict(config.config)), "utf-8")


def executed(
    variant: ResolvedRecipe,
    steps: tuple[Command, ...],
    version: str,
    root: Path,
    faulty: dict[str, str] | None = None,
    checked: str | None = None,
) -> Iterator[tuple[str, tuple[ProductError, ...]]]:
    """Runs the commands that make something, with faults by the command's name; its name and findings.

    With ``checked`` only the command of that name has findings.
    """
    fetch(variant, version, root)
    toolchain = load_toolchain(version)
    for step in steps:
        if step.step in MADE:
            chosen = {"STANDIN_FAULTS": (faulty or {}).get(step.name, "")}
            run(version, step.argv, step.workdir, root, chosen)
            if checked in (None, step.name):
                yield step.name, check(expect(step, variant, toolchain), root / step.workdir)
