"""Writes commands as a shell script that people read, change and keep.

The script automates the steps of upstream's page in the same directories: download, convert, build, run. It skips
downloads whose directory exists; everything else runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from mmbuild._version import __version__
from mmbuild.backends.tensorrt_llm.toolchains.capabilities import notes
from mmbuild.backends.tensorrt_llm.toolchains.commands import Command, commands
from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
from mmbuild.backends.tensorrt_llm.toolchains.template_context import variables
from mmbuild.base.shell import line, quote
from mmbuild.models.sources.config import parse_source
from mmbuild.schema.resolved import ResolvedRecipe
from mmbuild.schema.tensorrt_llm_versions import ToolchainError

_WIDTH = 110
_MODES = ("run", "profile", "check_accuracy")


def script(variants: Sequence[ResolvedRecipe], toolchain: Toolchain) -> str:
    """A bash script that builds ``variants`` and runs each engine.

    Raises:
        ToolchainError: MM603 to MM606, the toolchain cannot build a variant; MM174, calibration data, which only
            mmbuild itself uses; MM607, a model with random weights; MM608, two variants would write the same files.
    """
    for variant in variants:
        _require_weights(variant)
        _require_commands(variant, toolchain)
    planned = [(variant, commands(variant, toolchain)) for variant in variants]
    _require_distinct_products([(variant.name, steps) for variant, steps in planned])
    lines = [*_head(variants, toolchain), *_start(variants, toolchain)]
    seen: set[Command] = set()
    for variant, steps in planned:
        lines += ["", *_banner(variant, toolchain)]
        lines += _build([step for step in steps if step.step != "run" and step not in seen])
        seen.update(steps)
        lines += _ask([step for step in steps if step.step == "run"])
    return "\n".join(lines) + "\n"


def _require_weights(variant: ResolvedRecipe) -> None:
    model = variant.recipe.model
    if parse_source(model.source).kind.startswith("dummy"):
        raise ToolchainError(
            f"{variant.name}: a script cannot fetch the random weights of `{model.source}`",
            code="MM607",
            hint="set model.source to the real model: `--set model.source=hf://owner/name`",
        )


def _require_commands(variant: ResolvedRecipe, toolchain: Toolchain) -> None:
    if variables(variant, toolchain)["calibrated"]:
        raise ToolchainError(
            f"{variant.name}: TensorRT-LLM {toolchain.version} has no command that calibrates on the recipe's data; "
            "its quantizer uses its own texts, and only mmbuild itself calibrates on the data",
            code="MM174",
            hint="build with `mmbuild apply`, or remove engine.quantization.calibration and calibrate on text",
        )


def _require_distinct_products(planned: Sequence[tuple[str, Sequence[Command]]]) -> None:
    writers: dict[str, tuple[str, Command]] = {}
    for name, steps in planned:
        for step in steps:
            for product in step.products:
                other, first = writers.setdefault(product, (name, step))
                if first.argv != step.argv:
                    raise ToolchainError(
                        f"{other} and {name} would both write `{product}`, by different commands",
                        code="MM608",
                        hint="write one script per variant with `--set`, and run each in its own checkout",
                    )


def _head(variants: Sequence[ResolvedRecipe], toolchain: Toolchain) -> Iterator[str]:
    names = ", ".join(variant.name for variant in variants)
    pins = " ".join(f"{package}{specifier}" for package, specifier in toolchain.pins.items())
    yield "#!/usr/bin/env bash"
    yield from _comment(f"{names} with TensorRT-LLM {toolchain.version}. Written by mmbuild {__version__}.")
    yield "#"
    yield from _comment(f"Python {toolchain.python}, and: {pins}")
    for family in dict.fromkeys(variant.recipe.model.family for variant in variants):
        extra = toolchain.families[family].requirements
        if extra:
            yield from _comment(f"For {family} also: {' '.join(extra)}")
    yield from _comment(
        "The commands were checked against the flags of this version and have never been executed by mmbuild "
        "(docs/toolchains.md)."
    )
    yield "set -euo pipefail"


def _start(variants: Sequence[ResolvedRecipe], toolchain: Toolchain) -> Iterator[str]:
    source = toolchain.source
    yield "trap 'echo \"line ${LINENO} failed: ${BASH_COMMAND}\" >&2' ERR"
    yield ""
    yield from _comment("What to do with each engine once it is built: run, profile or check_accuracy.")
    yield 'ask="${1:-run}"'
    yield 'case "${ask}" in'
    yield f"{' | '.join(_MODES)}) ;;"
    yield "*)"
    yield f'  echo "usage: $0 [{"|".join(_MODES)}]" >&2'
    yield "  exit 2"
    yield "  ;;"
    yield "esac"
    yield ""
    yield from _comment("A checkout of TensorRT-LLM with its example scripts:")
    yield f"#   git clone {source.repository}"
    yield f"#   git -C TensorRT-LLM checkout {source.revision}"
    yield 'cd "${TRTLLM_ROOT:?set TRTLLM_ROOT to the checkout}/' + toolchain.workdir + '"'
    if any(variables(variant, toolchain)["source_url"] for variant in variants):
        yield 'git lfs version >/dev/null || { echo "git-lfs is needed to fetch weights" >&2; exit 1; }'
    yield "mkdir -p tmp/hf_models"


def _banner(variant: ResolvedRecipe, toolchain: Toolchain) -> Iterator[str]:
    yield f"# ---- {variant.name}"
    for derivation in variant.derivations:
        yield from _comment(f"{derivation.name} = {derivation.value}: {derivation.arithmetic}")
    for note in notes(variant, toolchain):
        yield from _comment(f"Note: {note}")


def _build(steps: Sequence[Command]) -> Iterator[str]:
    for once, together in groupby(steps, key=lambda step: step.once):
        if once is None:
            for step in together:
                yield from ("", *_command(step))
        else:
            yield from ("", f"if [[ ! -e {quote(once)} ]]; then")
            for step in together:
                yield from _command(step, "  ")
            yield "fi"


def _ask(steps: Sequence[Command]) -> Iterator[str]:
    yield from ("", 'case "${ask}" in')
    for step in steps:
        yield from (f"{step.name})", *_command(step, "  "), "  ;;")
    yield "esac"


def _command(step: Command, indent: str = "") -> Iterator[str]:
    """A comment and the command, with one line per group if it does not fit on one line."""
    yield from (indent + row for row in _comment(step.comment))
    settings = [f"{name}={quote(text)}" for name, text in step.environment]
    parts = settings + [line(group) for group in step.groups]
    short = len(" ".join(parts)) <= _WIDTH and not any("\n" in part for part in parts)
    yield indent + (" " if short else f" \\\n{indent}  ").join(parts)


def _comment(text: str) -> Iterator[str]:
    """``text`` wrapped into comment lines; line breaks in a recipe's text cannot end the comment."""
    words = " ".join(text.split()).split(" ")
    row = "#"
    for word in words:
        if len(row) + 1 + len(word) > _WIDTH and row != "#":
            yield row
            row = "#"
        row += f" {word}"
    yield row
