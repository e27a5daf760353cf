"""``mmbuild script``: the commands of a TensorRT-LLM version, as a shell script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import options
from mmbuild.cli.output import print_status, use_color

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
    from mmbuild.schema.resolved import ResolvedRecipe
    from mmbuild.schema.tensorrt_llm_versions import ToolchainError


@click.command("script")
@options.recipes
@click.option(
    "--toolchain",
    "version",
    metavar="VERSION",
    help="Version of TensorRT-LLM (default: the recipe's engine.tensorrt_llm.toolchain).",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the script here, executable.")
def command(
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    version: str | None,
    output: Path | None,
) -> None:
    """Write the commands of a TensorRT-LLM version that build recipes, as a shell script.

    All variants of the recipes go into one script, and what they share is in it once. Nothing is run, and
    engine.backend is not looked at.

    \b
    Example:
      mmbuild script recipes/llava-int4.yaml --toolchain 0.10.0 -o llava-int4.sh
      TRTLLM_ROOT=~/TensorRT-LLM ./llava-int4.sh
    """
    from mmbuild.pipeline.load import load_recipes
    from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

    if version in SUPPORTED:
        # Recipes are judged by the version that the script is for, not by their own.
        overrides = (*overrides, f"engine.tensorrt_llm.toolchain='{version}'")
    loaded = load_recipes(recipes, overrides=overrides, offline=offline, allow_outside=allow_outside)
    if loaded.diagnostics:
        from mmbuild.base.diagnostics import render_text

        print_status(render_text(loaded.diagnostics, color=use_color()).rstrip())
    if any(item.severity == "error" for item in loaded.diagnostics):
        sys.exit(1)
    from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
    from mmbuild.backends.tensorrt_llm.toolchains.script import script

    toolchain = _toolchain(loaded.variants, version)
    refused = [error for variant in loaded.variants for error in refusals(variant, toolchain)]
    if refused:
        _report_refused(refused)
        sys.exit(1)
    text = script(loaded.variants, toolchain)
    if output is None:
        click.echo(text, nl=False)
        return
    output.write_text(text, encoding="utf-8")
    output.chmod(0o755)
    print_status(f"wrote `{output}`")


def _toolchain(variants: tuple[ResolvedRecipe, ...], version: str | None) -> Toolchain:
    from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
    from mmbuild.schema.tensorrt_llm_versions import ToolchainError

    requested = {version or variant.recipe.engine.tensorrt_llm.toolchain for variant in variants}
    if len(requested) > 1:
        raise ToolchainError(
            f"the recipes ask for different toolchains: {', '.join(sorted(requested))}",
            code="MM609",
            hint="Choose one with --toolchain, or write a script for each",
        )
    return load_toolchain(requested.pop())


def _report_refused(refused: Sequence[ToolchainError]) -> None:
    """All that stands in the way, at once."""
    from mmbuild.base.diagnostics import Diagnostic, render_text

    findings = [Diagnostic(error.code, error.message, hint=error.hint) for error in refused]
    print_status(render_text(findings, color=use_color()).rstrip())
