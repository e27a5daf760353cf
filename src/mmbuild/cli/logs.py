"""``mmbuild logs``: the output of actions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.output import print_note

if TYPE_CHECKING:
    from mmbuild.base.errors import MmbuildError
    from mmbuild.core.store.action_logs import LoggedRun
    from mmbuild.core.store.layout import Store

_POLL_SECONDS = 0.2
_MOST_JSON = 16_000_000
"""Characters of a log in ``--json``; of a longer one, these are the last."""
_MOST_LISTED = 8


@commands.command("logs")
@click.argument("label", required=False, metavar="[VARIANT[/STEP]]")
@options.store
@click.option("-f", "--follow", is_flag=True, help="Print what a running action adds, until it ends.")
@options.json_option("the runs, or one run with its log as `text`")
def command(*, label: str | None, store: Path | None, follow: bool, as_json: bool) -> None:
    """List the logs of the last apply or of a build, or print the log of the newest run of an action.

    VARIANT is the name of a build or its directory. An action has a log whether it succeeded, failed, was interrupted
    or is still running; its next run replaces it. A step such as `build_llm` is enough if only one action of the last
    apply has it. Control characters in logs are printed as escapes.

    \b
    Example:
      mmbuild logs
      mmbuild logs llava-int4
      mmbuild logs llava-int4/build_llm
      mmbuild logs build_llm --follow
    """
    from mmbuild.core.store.action_logs import last_apply, read_runs
    from mmbuild.core.store.layout import existing_store

    if follow and (label is None or as_json):
        raise click.UsageError("--follow prints the log of one action: give VARIANT/STEP, without --json")
    opened = existing_store(store)
    runs = read_runs(opened)
    if label is None:
        _list(last_apply(runs), opened, as_json=as_json)
        return
    of_build = _of_build(label, runs)
    if of_build and not follow:
        _list(of_build, opened, as_json=as_json)
        return
    run = _newest(label, runs)
    if as_json:
        click.echo(json.dumps({**_facts(run, opened), **_text(run, opened)}, indent=1))
    elif follow:
        _follow(run, opened)
    else:
        _require_log(run, opened)
        for piece in _pieces(run, opened):
            click.echo(piece, nl=False)
        if not _size(run, opened):
            print_note(f"`{run.label}` ({run.status}) printed nothing")


def _list(runs: Sequence[LoggedRun], store: Store, *, as_json: bool) -> None:
    from mmbuild.base.formatting import size_text
    from mmbuild.base.terminal_text import one_line
    from mmbuild.cli.tables import print_table

    if as_json:
        click.echo(json.dumps([_facts(run, store) for run in runs], indent=1))
        return
    if not runs:
        click.echo("nothing has been built yet")
        return
    rows = [
        (one_line(run.label), run.status, _time(run.at), _took(run), "-" if size is None else size_text(size))
        for run in runs
        for size in [_size(run, store)]
    ]
    print_table([("action", "status", "began", "took", "log"), *rows])


def _of_build(label: str, runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """The last run of each action of the build that ``label`` names, or whose directory it is, in order of time."""
    if any(run.label == label for run in runs):
        return []
    name = Path(label).name
    newest = {run.label: run for run in runs if run.label.rpartition("/")[0] == name}
    return sorted(newest.values(), key=lambda run: run.at)


def _newest(label: str, runs: Sequence[LoggedRun]) -> LoggedRun:
    """The last run of the action that ``label`` means.

    Raises:
        MmbuildError: MM328, there is none, or several.
    """
    from mmbuild.base.diagnostics import nearest
    from mmbuild.core.store.action_logs import last_apply

    for run in reversed(runs):
        if run.label == label:
            return run
    same_step = [run for run in last_apply(list(runs)) if run.label.rpartition("/")[2] == label]
    if len(same_step) == 1:
        return same_step[0]
    if same_step:
        raise _no_log(f"several actions of the last apply are `{label}`", f"name one: {_names(same_step)}")
    labels = dict.fromkeys(run.label for run in reversed(runs))
    if "/" not in label:  # a step
        labels = {run.label.rpartition("/")[2]: None for run in reversed(runs)}
    near = nearest(label, list(labels))
    hint = (
        f"did you mean `{near}`?"
        if near
        else f"`mmbuild logs` lists the logs of the last apply{_builds(runs)}"
    )
    raise _no_log(f"no action `{label}` has run with this store", hint)


def _builds(runs: Sequence[LoggedRun]) -> str:
    """The builds that have logs, as the end of a hint; the last ones first."""
    names = list(dict.fromkeys(run.label.rpartition("/")[0] for run in reversed(runs)))
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return (
        f"; builds with logs are {', '.join(f'`{name}`' for name in names[:_MOST_LISTED])}{more}"
        if names
        else ""
    )


def _names(runs: Sequence[LoggedRun]) -> str:
    more = f" and {len(runs) - _MOST_LISTED} more" if len(runs) > _MOST_LISTED else ""
    return ", ".join(f"`{label}`" for label in sorted(run.label for run in runs)[:_MOST_LISTED]) + more


def _no_log(message: str, hint: str) -> MmbuildError:
    from mmbuild.base.errors import MmbuildError

    return MmbuildError(message, code="MM328", hint=hint)


def _require_log(run: LoggedRun, store: Store) -> None:
    if _size(run, store) is None:
        raise _no_log(
            f"the log of `{run.label}` is no longer in the store `{store.root}`",
            "`mmbuild cache gc` removes old logs, and an action on another machine may leave none here",
        )


def _pieces(run: LoggedRun, store: Store) -> Iterator[str]:
    """The log, with all control characters escaped: also colours, which could imitate messages of mmbuild."""
    from mmbuild.base.terminal_text import clean
    from mmbuild.core.store.action_logs import LogReader

    yield from map(clean, LogReader(store.log(run.key)).fresh())


def _follow(run: LoggedRun, store: Store) -> None:
    """Print the log and what is added to it, until the run ends."""
    from mmbuild.base.terminal_text import clean
    from mmbuild.core.store.action_logs import RUNNING, LogReader, read_runs

    reader = LogReader(store.log(run.key))
    while True:
        # What is written before the end is noted is read after it was noted.
        current = next(
            (one for one in read_runs(store) if (one.apply, one.label) == (run.apply, run.label)), None
        )
        for piece in reader.fresh():
            click.echo(clean(piece), nl=False)
        if current is None or current.status != RUNNING:
            return
        time.sleep(_POLL_SECONDS)


def _facts(run: LoggedRun, store: Store) -> dict[str, Any]:
    kept = ("label", "status", "at", "seconds", "key", "host")
    facts = {name: value for name, value in asdict(run).items() if name in kept}
    return {"schema": 1, **facts, "log": str(store.log(run.key)), "size": _size(run, store)}


def _text(run: LoggedRun, store: Store) -> dict[str, Any]:
    from mmbuild.core.store.action_logs import LogReader

    text = ""
    cut = False
    for piece in LogReader(store.log(run.key)).fresh():
        text += piece
        if len(text) > 2 * _MOST_JSON:
            text, cut = text[-_MOST_JSON:], True
    return {"text": text[-_MOST_JSON:], "cut": cut or len(text) > _MOST_JSON}


def _size(run: LoggedRun, store: Store) -> int | None:
    """Bytes of the log; None if there is none."""
    try:
        return store.log(run.key).stat().st_size
    except OSError:
        return None


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _took(run: LoggedRun) -> str:
    return "-" if run.seconds is None else f"{run.seconds:.1f} s"
