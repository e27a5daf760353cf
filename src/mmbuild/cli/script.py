"""``mmbuild script``: write the commands of other programs as a shell script."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options
from mmbuild.cli.output import print_note, print_status, use_color

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
    from mmbuild.pipeline.options import PlanOptions
    from mmbuild.schema.resolved import ResolvedRecipe
    from mmbuild.schema.tensorrt_llm_versions import ToolchainError


@commands.command("script")
@options.recipes
@click.option(
    "--toolchain",
    "version",
    metavar="VERSION",
    help="TensorRT-LLM version (default: the recipe's engine.tensorrt_llm.toolchain).",
)
@options.output_option("Write an executable script to this file.")
def command(
    request: PlanOptions,
    version: str | None,
    output: Path | None,
) -> None:
    """Write the commands of other programs for the recipes, as a shell script.

    For engine.backend hf these are the commands that serve the checkpoints with vLLM or SGLang. For other backends,
    and with --toolchain, they are those with which a TensorRT-LLM version builds the recipes. One script builds all
    variants; steps they share appear once. Nothing is run.

    \b
    Example:
      mmbuild script recipes/llava-int4.yaml --toolchain 0.10.0 -o llava-int4.sh
      TRTLLM_ROOT=~/TensorRT-LLM ./llava-int4.sh
      mmbuild script recipes/llava-int4.yaml --set engine.backend=hf
    """
    from mmbuild.pipeline.load import load
    from mmbuild.pipeline.recipe_files import with_files
    from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

    if version in SUPPORTED:
        # Check recipes against the version of the script, not the version in the recipe.
        chosen = f"engine.tensorrt_llm.toolchain='{version}'"
        request = replace(request, overrides=(*request.overrides, chosen))
    loaded = load(with_files(request))
    if loaded.diagnostics:
        from mmbuild.base.diagnostics import render_text

        print_status(render_text(loaded.diagnostics, color=use_color()).rstrip())
    if any(item.severity == "error" for item in loaded.diagnostics):
        sys.exit(1)
    text = _own_script(loaded.variants) if version is None else None
    if text is None:
        text = _build_script(loaded.variants, version)
    if output is None:
        click.echo(text, nl=False)
        return
    output.write_text(text, encoding="utf-8")
    output.chmod(0o755)
    print_note(f"wrote `{output}`")


def _own_script(variants: Sequence[ResolvedRecipe]) -> str | None:
    """The script of the recipes' backend; None if it has none.

    Raises:
        UsageError: MM887, some recipes have a script of their own backend and others have not.
    """
    from mmbuild.backends.table import backend
    from mmbuild.base.errors import UsageError

    names = list(dict.fromkeys(str(variant.recipe.engine.backend) for variant in variants))
    scripts = {name: backend(name).script(variants) for name in names}
    if len(names) > 1 and any(text is not None for text in scripts.values()):
        raise UsageError(
            f"the recipes have the backends {', '.join(names)}, whose scripts do different things",
            code="MM887",
            hint="write one script for each: `--set engine.backend=...`",
        )
    return next(iter(scripts.values()), None)


def _build_script(variants: tuple[ResolvedRecipe, ...], version: str | None) -> str:
    """The commands that build the recipes with TensorRT-LLM; exits with 1 where it cannot."""
    from mmbuild.backends.tensorrt_llm.toolchains.capabilities import refusals
    from mmbuild.backends.tensorrt_llm.toolchains.script import script

    toolchain = _toolchain(variants, version)
    errors = [error for variant in variants for error in refusals(variant, toolchain)]
    if errors:
        _report_errors(errors)
        sys.exit(1)
    return script(variants, toolchain)


def _toolchain(variants: tuple[ResolvedRecipe, ...], version: str | None) -> Toolchain:
    from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
    from mmbuild.schema.tensorrt_llm_versions import ToolchainError

    requested = {version or variant.recipe.engine.tensorrt_llm.toolchain for variant in variants}
    if len(requested) > 1:
        raise ToolchainError(
            f"the recipes require different toolchains: {', '.join(sorted(requested))}",
            code="MM609",
            hint="choose one with --toolchain, or write one script per toolchain",
        )
    return load_toolchain(requested.pop())


def _report_errors(errors: Sequence[ToolchainError]) -> None:
    """Print all errors at once."""
    from mmbuild.base.diagnostics import Diagnostic, render_text

    findings = [Diagnostic(error.code, error.message, hint=error.hint) for error in errors]
    print_status(render_text(findings, color=use_color()).rstrip())
