"""``mmbuild plan``: what apply would do, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.cli.plan_request import Planning
    from mmbuild.core.graph.plan import Plan
    from mmbuild.core.graph.plan_text import TextLayout
    from mmbuild.core.store.action_cache import ActionCache
    from mmbuild.pipeline.options import PlanOptions

_CHANGES = 3


@commands.command("plan", verbose="Also print every change, the inputs and the keys of each action.")
@options.recipes
@options.location_options
@options.locked_option
@options.json_option("the plan; its schema has a version")
@options.output_option("Save the plan for `mmbuild apply FILE`.")
@options.exit_code_option("Exit with 3 if apply would do anything.", old=("--detailed-exitcode",))
@click.option("--explain", is_flag=True, help="Show how each derived number is computed.")
def command(
    *,
    request: PlanOptions,
    store: Path | None,
    build_dir: Path,
    as_json: bool,
    output: Path | None,
    exit_code: bool,
    explain: bool,
) -> None:
    """Show what apply would do, and why, one line per action.

    Verdicts: `run`; `may change` (depends on an action that runs; skipped if its inputs turn out unchanged); `pull`
    (built by another machine, and its files are needed); `restore` (built, but missing from the engine directory);
    `up to date`.

    \b
    Example:
      mmbuild plan recipes/llava-int4.yaml --explain
      mmbuild plan recipes/llava-int4.yaml -o llava.plan && mmbuild apply llava.plan
    """
    from mmbuild.cli.output import print_note
    from mmbuild.cli.plan_request import plan_request
    from mmbuild.core.graph.plan_file import save_plan

    planning = plan_request(request, store, build_dir)
    if output is not None:
        save_plan(output, planning.plan, planning.request)
        print_note(f"saved `{output}`; `mmbuild apply {output}` applies exactly this plan")
    print_plan(planning, as_json=as_json, explain=explain)
    if exit_code and planning.plan.changes:
        sys.exit(_CHANGES)


def print_plan(planning: Planning, *, as_json: bool, explain: bool = False) -> None:
    """Print a plan with its cost, as text or JSON; with ``explain``, first how derived numbers are computed."""
    from mmbuild.base.formatting import size_text
    from mmbuild.cli.output import print_note
    from mmbuild.cli.plan_request import note_replaced
    from mmbuild.cli.tables import print_folded
    from mmbuild.cli.verbosity import is_quiet
    from mmbuild.core.execution.resources import machine_cores, machine_memory
    from mmbuild.core.graph.cost import cost_of
    from mmbuild.core.graph.plan_text import plan_text, summary
    from mmbuild.core.store.action_cache import load_cache

    cache = load_cache(planning.plan.store)
    cost = cost_of(planning.plan, cache, machine_cores())
    note_replaced(planning.plan)
    if as_json:
        from mmbuild.core.graph.serialize import plan_to_json

        more = {"cost": cost.document()}
        click.echo(json.dumps(plan_to_json(planning.plan, planning.request, more), indent=1))
        return
    if explain:
        print_folded(_derivation_text(planning.prepared.derivations))
    if is_quiet():
        click.echo(summary(planning.plan))
        return
    click.echo(plan_text(planning.plan, cost, _layout(planning.plan, cache)), nl=False)
    if planning.plan.changes and planning.prepared.running:
        print_folded(_running_text(planning.prepared.running).rstrip("\n"))
    if cost.reserved > machine_memory():
        print_note(
            f"note: {cost.largest} needs about {size_text(cost.reserved)} of memory, and this machine has "
            f"{size_text(machine_memory())}: apply refuses that (MM312)"
        )
    elif planning.plan.changes:
        for line in _running_notes(planning.prepared.running, machine_memory()):
            print_note(line)
    note = _gpu_note(planning.plan)
    if note is not None and not planning.request["locked"]:  # a lock has a note about its target
        print_note(note)


def _gpu_note(plan: Plan) -> str | None:
    """Why apply refuses the plan on this machine, if it has too few GPUs; GPUs are queried only if one is needed."""
    from mmbuild.base.gpu import visible_gpus

    needing = [planned.action for planned in plan.actions if planned.record is None]
    needing = [action for action in needing if action.resources.gpus]
    if not needing:
        return None
    most = max(needing, key=lambda action: action.resources.gpus)
    here = len(visible_gpus() or ())
    if here >= most.resources.gpus:
        return None
    return (
        f"note: {most.label} needs {most.resources.gpus} GPU(s), and {here} can be used here: "
        "apply refuses that on this machine (MM314)"
    )


def _layout(plan: Plan, cache: ActionCache) -> TextLayout:
    """Colours and width of the terminal, and with ``-v`` all that is known about each action."""
    from mmbuild.cli.output import styled_verdict
    from mmbuild.cli.tables import terminal_width
    from mmbuild.cli.verbosity import is_verbose
    from mmbuild.core.graph.long_reasons import long_reasons
    from mmbuild.core.graph.plan_text import TextLayout

    return TextLayout(terminal_width(), styled_verdict, long_reasons(plan, cache) if is_verbose() else {})


def _running_text(running: Mapping[str, tuple[str, int]]) -> str:
    """Return what each engine takes to run, a line each."""
    return "".join(f"{name} {line}\n" for name, (line, _) in running.items())


def _running_notes(running: Mapping[str, tuple[str, int]], memory: int) -> Iterator[str]:
    """Return a note for each engine that takes more memory to run than this machine has."""
    from mmbuild.base.formatting import size_text

    for name, (_, on_host) in running.items():
        if on_host > memory:
            yield (
                f"note: {name} takes about {size_text(on_host)} to run, and this machine has {size_text(memory)}: "
                "lower max_batch_size or the lengths, or run it on a larger machine"
            )


def _derivation_text(derivations: Mapping[str, Sequence[str]]) -> str:
    """Return how each derived number is computed, by variant."""
    return "\n".join(_derivation_lines(derivations)) + "\n"


def _derivation_lines(derivations: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, lines in derivations.items():
        yield f"{name}:"
        for line in lines:
            yield f"  {line}"
