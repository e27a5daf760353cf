"""Failures as annotations of a GitHub workflow: commands that the runner reads from the output of a step.

Source: "Workflow commands for GitHub Actions", GitHub Docs: ``error`` and ``warning`` with ``file``, ``line``,
``col``, ``title``; ``group`` and ``endgroup``; ``stop-commands``, without which a log could give commands of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmbuild.base.diagnostics import RecipeError, render_github, workflow_command
from mmbuild.base.errors import MmbuildError
from mmbuild.base.yaml_nodes import YamlNode, find
from mmbuild.core.execution.failures import Failed
from mmbuild.schema.files import read_document
from mmbuild.schema.matrix import expand

_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "download": "model.source",
        "download-vision": "model.vision.source",
        "prepare": "engine.tensorrt_llm",
        "convert": "engine.dtype",
        "quantize": "engine.quantization",
        "build_llm": "engine.max_input_len",
        "build_visual": "visual",
        "assemble": "engine",
        "measure": "verify",
        "verify": "gates",
    }
)
"""The key that a step's work follows from most; a recipe that lacks it is pointed at by its name."""


@dataclass(frozen=True, slots=True)
class RecipeLocation:
    """A file as seen from the working directory, line and column from 1."""

    file: str
    line: int
    column: int


def recipe_locations(recipes: Iterable[Path], labels: Iterable[str]) -> dict[str, RecipeLocation]:
    """The place of each label (``<variant>/<step>``) that one of ``recipes`` asks for."""
    required = {label: label.rpartition("/")[::2] for label in labels}
    found: dict[str, RecipeLocation] = {}
    for recipe in recipes if required else ():
        for name, node in _variants(recipe).items():
            for label, (variant, step) in required.items():
                if variant == name:
                    found[label] = _place(node, step)
    return found


def _variants(recipe: Path) -> dict[str, YamlNode]:
    """What a file says of each of its variants; nothing where it cannot be read (any more)."""
    node = read_document(recipe, allow_outside=True).node
    if node is None or "name" not in node.value:
        return {}
    return {f"{node.value['name'].value}{suffix}": variant for suffix, variant in expand(node)[0]}


def _place(node: YamlNode, step: str) -> RecipeLocation:
    parts = _KEYS.get(step.removeprefix("toolchain_"), "name").split(".")
    at, reached = find(node, parts)
    if not reached:
        at = node.value["name"]
    span = at.key or at.span
    return RecipeLocation(span.source.label, span.line, span.column)


_LOG_BYTES = 200_000
"""The end of a log; a step's output has its limits, and the file keeps all of it."""


@contextmanager
def annotated_errors() -> Iterator[None]:
    """Print whatever ends the command as annotations too."""
    try:
        yield
    except RecipeError as error:
        print(render_github(error.diagnostics), flush=True)
        raise
    except MmbuildError as error:
        print(error_command(error.code, error.message, error.hint), flush=True)
        raise


def failure(failed: Failed, place: RecipeLocation | None) -> str:
    """An annotation for a failed action, and its log, folded."""
    message = "\n".join([failed.message, *(f"caused by: {cause}" for cause in failed.causes)])
    title = f"{failed.code} {failed.label}"
    lines = [error_command(title, message, failed.hint, place), *_log(failed)]
    return "\n".join(lines)


def warning(event: Mapping[str, object]) -> str:
    """An annotation for a warning event about the shared store."""
    message = "\n".join(str(event[key]) for key in ("message", "hint") if event.get(key))
    return workflow_command("warning", message, {"title": event.get("code")})


def error_command(title: str, message: str, hint: str | None, place: RecipeLocation | None = None) -> str:
    """One ``::error`` line; with ``place`` it stands beside that line of the recipe."""
    text = f"{message}\nhint: {hint}" if hint else message
    where = {"file": place.file, "line": place.line, "col": place.column} if place else {}
    return workflow_command("error", text, {**where, "title": title})


def _log(failed: Failed) -> Iterator[str]:
    """The end of the log in a group, as nothing but text."""
    try:
        with open(failed.log, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _LOG_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return
    token = secrets.token_hex(16)
    yield workflow_command("group", f"log of {failed.label} ({Path(failed.log).name})", {})
    yield f"::stop-commands::{token}"
    yield from text.splitlines()
    yield f"::{token}::"
    yield "::endgroup::"
