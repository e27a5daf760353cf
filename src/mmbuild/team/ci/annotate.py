"""Formats failures as annotations of a GitHub workflow: commands that the runner reads from the output of a step.

Source: "Workflow commands for GitHub Actions", GitHub Docs: ``error`` and ``warning`` with ``file``, ``line``,
``col``, ``title``; ``group`` and ``endgroup``; ``stop-commands``, which keeps text in a log from acting as commands.
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
        "convert_visual": "visual",
        "assemble": "engine",
        "hf_weights": "engine.quantization",
        "hf_model": "engine",
        "hf_card": "engine",
        "measure": "verify",
        "verify": "gates",
    }
)
"""The recipe key that most affects each step. If the recipe does not have it, the annotation points at `name`."""


@dataclass(frozen=True, slots=True)
class RecipeLocation:
    """A file relative to the working directory, with line and column from 1."""

    file: str
    line: int
    column: int


def recipe_locations(recipes: Iterable[Path], labels: Iterable[str]) -> dict[str, RecipeLocation]:
    """Return the location in ``recipes`` of each label (``<variant>/<step>``)."""
    required = {label: label.rpartition("/")[::2] for label in labels}
    locations: dict[str, RecipeLocation] = {}
    for recipe in recipes if required else ():
        for name, node in _variants(recipe).items():
            for label, (variant, step) in required.items():
                if variant == name:
                    locations[label] = _location(node, step)
    return locations


def _variants(recipe: Path) -> dict[str, YamlNode]:
    """Return the YAML node of each variant in a file; empty if the file cannot be read."""
    node = read_document(recipe, allow_outside=True).node
    if node is None or "name" not in node.value:
        return {}
    return {f"{node.value['name'].value}{suffix}": variant for suffix, variant in expand(node)[0]}


def _location(node: YamlNode, step: str) -> RecipeLocation:
    parts = _KEYS.get(step.removeprefix("toolchain_"), "name").split(".")
    at, reached = find(node, parts)
    if not reached:
        at = node.value["name"]
    span = at.key or at.span
    return RecipeLocation(span.source.label, span.line, span.column)


_LOG_BYTES = 200_000
"""Bytes printed from the end of a log; CI services limit a step's output, and the file has the full log."""


@contextmanager
def annotated_errors() -> Iterator[None]:
    """Also print errors that end the command as annotations."""
    try:
        yield
    except RecipeError as error:
        print(render_github(error.diagnostics), flush=True)
        raise
    except MmbuildError as error:
        print(error_command(error.code, error.message, error.hint), flush=True)
        raise


def failure(failed: Failed, location: RecipeLocation | None) -> str:
    """Return an annotation for a failed action, followed by its log in a collapsed group."""
    message = "\n".join([failed.message, *(f"caused by: {cause}" for cause in failed.causes)])
    title = f"{failed.code} {failed.label}"
    lines = [error_command(title, message, failed.hint, location), *_log(failed)]
    return "\n".join(lines)


def warning(event: Mapping[str, object]) -> str:
    """Return an annotation for a warning event about the shared store."""
    message = "\n".join(str(event[key]) for key in ("message", "hint") if event.get(key))
    return workflow_command("warning", message, {"title": event.get("code")})


def error_command(title: str, message: str, hint: str | None, location: RecipeLocation | None = None) -> str:
    """Return an ``::error`` line; with ``location``, it is shown at that line of the recipe."""
    text = f"{message}\nhint: {hint}" if hint else message
    position = {"file": location.file, "line": location.line, "col": location.column} if location else {}
    return workflow_command("error", text, {**position, "title": title})


def _log(failed: Failed) -> Iterator[str]:
    """Yield the end of the log as a group, with workflow commands disabled."""
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
