"""Measures what ``mmbuild bench`` was given and shows the result: here, or in each rank of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmbuild.serving.bench.load import Extent, Load
    from mmbuild.serving.bench.measured import Run
    from mmbuild.serving.bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is measured: the target as the result describes it, its loads, and the function that yields their runs."""

    target: Mapping[str, Any]
    loads: Sequence[Load]
    workload: Workload
    measure: Callable[[Sequence[Load], Extent, Workload, Callable[[Load], None]], Iterator[Run]]


@dataclass(frozen=True, slots=True)
class Shown:
    """Where the result goes: files, and the terminal as a table or as JSON."""

    output: str | None
    html: str | None
    as_json: bool


def measure_engine(
    build: str,
    loads: Sequence[Mapping[str, Any]],
    workload: Mapping[str, Any],
    extent: Mapping[str, Any],
    shown: Mapping[str, Any],
) -> None:
    """Load an engine, measure it and show the result: what each rank does, of which rank 0 alone gets past loading.

    Args:
        build: The engine directory.
        loads: Fields of each load.
        workload: Fields of the workload.
        extent: Fields of the extent.
        shown: Fields of where the result goes.
    """
    from mmbuild.backends.engine_dir import description as layout
    from mmbuild.serving.bench import in_process
    from mmbuild.serving.bench.load import Extent, Load
    from mmbuild.serving.bench.workload import Workload

    engine = Path(build)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in workload.items()
    }
    sweep = Sweep(
        in_process.target_of(engine, layout.read(engine)),
        [Load(**load) for load in loads],
        Workload(**fields),
        partial(in_process.measure, engine),
    )
    run(sweep, Extent(**extent), Shown(**shown))


def _report(load: Load) -> None:
    from mmbuild.cli.output import print_note

    print_note(f"measuring {load.name} ...")


def run(sweep: Sweep, extent: Extent, shown: Shown) -> None:
    """Measure, and show what was measured, however the sweep ended.

    Raises:
        MmbuildError: MM864, a run has no complete answer; or why the sweep ended early.
    """
    from datetime import UTC, datetime

    from mmbuild.serving.bench.document import document
    from mmbuild.serving.bench.sweep import collect

    found = collect(sweep.measure(sweep.loads, extent, sweep.workload, _report), sweep.loads)
    result = document(
        sweep.target, sweep.workload, extent, found.runs, datetime.now(UTC), missing=found.missing
    )
    _show(result, shown)
    if found.problem is not None:
        raise found.problem
    _require_answers(found.runs)


def _show(result: Mapping[str, Any], shown: Shown) -> None:
    """Write the files, then print the table or the JSON."""
    from mmbuild.cli.tables import print_folded
    from mmbuild.serving.bench.document import as_text
    from mmbuild.serving.bench.page import page
    from mmbuild.serving.bench.rows import failure_lines, notes, row_of
    from mmbuild.serving.bench.table import print_table

    if shown.output is not None:
        Path(shown.output).write_text(as_text(result), encoding="utf-8")
    if shown.html is not None:
        Path(shown.html).write_text(page(result), encoding="utf-8")
    if shown.as_json:
        click.echo(as_text(result), nl=False)
        return
    print_table([row_of(result["target"]["name"], run) for run in result["runs"]])
    for line in (*failure_lines(result), *(f"note: {note}" for note in notes(result))):
        print_folded(line)


def _require_answers(runs: Sequence[Run]) -> None:
    """Fail if a run has no complete answer.

    Raises:
        MmbuildError: MM864.
    """
    from mmbuild.base.errors import MmbuildError

    failed = [run.load.name for run in runs if run.failed]
    if failed:
        raise MmbuildError(
            f"no request got a complete answer: {', '.join(failed)}",
            code="MM864",
            hint="the lines above count the failures by status and code",
        )
