"""Failures as annotations of a GitHub workflow: commands that the runner reads from the output of a step.

Source: "Workflow commands for GitHub Actions", GitHub Docs: ``error`` and ``warning`` with ``file``, ``line``,
``col``, ``title``; ``group`` and ``endgroup``; ``stop-commands``, without which a log could give commands of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmbuild.base.diagnostics import RecipeError, render_github, workflow_command
from mmbuild.base.errors import MmbuildError
from mmbuild.core.execution.failures import Failed
from mmbuild.team.ci.recipe_locations import RecipeLocation

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
    told = f"{message}\nhint: {hint}" if hint else message
    where = {"file": place.file, "line": place.line, "col": place.column} if place else {}
    return workflow_command("error", told, {**where, "title": title})


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
