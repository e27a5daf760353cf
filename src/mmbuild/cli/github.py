"""``--format github``: annotations and job summary of apply and ci in a GitHub workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from mmbuild.core.execution.events import Result
    from mmbuild.core.graph.plan import Plan
    from mmbuild.team.ci.summary import EventStats

F = TypeVar("F", bound=Callable[..., Any])


def annotate_errors(function: F) -> F:
    """Add ``--format`` as ``layout``; with ``github``, the error that ends the command is annotated."""

    @wraps(function)
    def wrapped(*args: Any, layout: str, **kwargs: Any) -> Any:
        if layout != "github":
            return function(*args, layout=layout, **kwargs)
        from mmbuild.team.ci.annotate import annotated_errors

        with annotated_errors():
            return function(*args, layout=layout, **kwargs)

    option = click.option(
        "--format",
        "layout",
        type=click.Choice(["text", "github"]),
        default="text",
        show_default=True,
        help="github adds annotations, folded logs of failures, and a job summary.",
    )
    return cast(F, option(wrapped))


def report(
    plan: Plan, tally: EventStats | None = None, result: Result | None = None, recipes: Iterable[Path] = ()
) -> None:
    """Print annotations to standard output and append the job summary to GitHub's file.

    Args:
        plan: The plan that was applied.
        tally: Statistics of its events.
        result: Its result; None if everything was up to date.
        recipes: Recipe files, used to locate failures.
    """
    from mmbuild.core.execution.events import Result
    from mmbuild.team.ci import annotate
    from mmbuild.team.ci.annotate import recipe_locations
    from mmbuild.team.ci.summary import EventStats, append_summary, summary

    tally, result = tally or EventStats(), result or Result()
    locations = recipe_locations(recipes, [failed.label for failed in result.failed])
    for failed in result.failed:
        click.echo(annotate.failure(failed, locations.get(failed.label)))
    for event in tally.warnings:
        click.echo(annotate.warning(event))
    append_summary(summary(plan, tally, result))
