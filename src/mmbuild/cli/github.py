"""``--format github``: what apply and ci say to a GitHub workflow, besides what they say to people."""

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
    """Add ``--format`` as ``layout``; with ``github``, what ends the command is annotated."""

    @wraps(function)
    def wrapped(*given: Any, layout: str, **named: Any) -> Any:
        if layout != "github":
            return function(*given, layout=layout, **named)
        from mmbuild.team.ci.annotate import annotated_errors

        with annotated_errors():
            return function(*given, layout=layout, **named)

    option = click.option(
        "--format",
        "layout",
        type=click.Choice(["text", "github"]),
        default="text",
        show_default=True,
        help="github adds annotations, folded logs of what failed, and a job summary.",
    )
    return cast(F, option(wrapped))


def report(
    plan: Plan, tally: EventStats | None = None, result: Result | None = None, recipes: Iterable[Path] = ()
) -> None:
    """Annotations on standard output, and the summary where GitHub wants it; without a result nothing had to be done.

    Args:
        plan: What was applied.
        tally: What its events told.
        result: How it ended.
        recipes: Files, for the places of failures.
    """
    from mmbuild.core.execution.events import Result
    from mmbuild.team.ci import annotate
    from mmbuild.team.ci.annotate import recipe_locations
    from mmbuild.team.ci.summary import EventStats, append_summary, summary

    tally, result = tally or EventStats(), result or Result()
    found = recipe_locations(recipes, [failed.label for failed in result.failed])
    for failed in result.failed:
        click.echo(annotate.failure(failed, found.get(failed.label)))
    for event in tally.warnings:
        click.echo(annotate.warning(event))
    append_summary(summary(plan, tally, result))
