"""``mmbuild why``: the chain of reasons back to the edited line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.cli.why_traces import VariantTrace


@click.command("why")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE")
@click.argument("step", required=False, metavar="[STEP]")
@options.loading_options
@options.location_options
@options.locked_option
@click.option("--key", "with_key", is_flag=True, help="Show the parts of the step's keys, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (its schema has a version).")
def command(
    *,
    recipe: Path,
    step: str | None,
    overrides: tuple[str, ...],
    offline: bool,
    allow_outside: bool | None,
    store: Path | None,
    build_dir: Path,
    locked: bool,
    with_key: bool,
    as_json: bool,
) -> None:
    """Say why actions of RECIPE would run, back to the line, version or file that changed.

    Where nothing is to be done, it says why the last build ran. STEP is a step such as `build_llm`, or
    `VARIANT/STEP` where the recipe has a matrix.

    Lines are found by trial: each value that the recipe's files say differently now is put back alone, and what of an
    action's key changes with it comes from there.

    \b
    Example:
      mmbuild why recipes/llava-int4.yaml
      mmbuild why recipes/llava-int4.yaml build_llm --key
    """
    from mmbuild.cli.why_traces import WhyOptions, trace_variants
    from mmbuild.team.lockfile.apply import refuse_overrides

    if locked:
        refuse_overrides(overrides)
    requested = WhyOptions(recipe, overrides, offline, allow_outside, store, build_dir, locked)
    variants = trace_variants(requested)
    found = [one for one in variants if step is None or one.matches(step)]
    if not found and step is not None:
        raise _no_step(recipe, step, variants)
    if as_json:
        click.echo(json.dumps([_data(one, step, with_key) for one in found], indent=1))
        return
    blocks = ["\n".join(_text(one, step, with_key)) for one in found]
    click.echo("\n\n".join(blocks))


def _text(one: VariantTrace, step: str | None, with_key: bool) -> Iterator[str]:
    from mmbuild.inspect.diff.reports import chain, key_lines, overview

    if step is None:
        yield from overview(one.trace, one.edits)
        return
    label = one.label(step)
    yield from chain(one.trace, label, one.edits)
    if with_key:
        yield ""
        yield from key_lines(*one.keys(label))


def _data(one: VariantTrace, step: str | None, with_key: bool) -> dict[str, Any]:
    from mmbuild.inspect.diff.reports import why_json

    data = why_json(one.trace, one.edits)
    if step is None:
        return data
    label = one.label(step)
    data["actions"] = [action for action in data["actions"] if action["label"] == label]
    if with_key:
        action, inputs, key = one.keys(label)
        data["key"] = {"definition": action.definition_key, "action": key, "inputs": dict(inputs)}
    return data


def _no_step(recipe: Path, step: str, found: list[VariantTrace]) -> Exception:
    from mmbuild.base.diagnostics import nearest
    from mmbuild.base.errors import UsageError

    steps = list(dict.fromkeys(label.rpartition("/")[2] for one in found for label in one.build.actions))
    near = nearest(step, steps)
    hint = f"Did you mean `{near}`?" if near else f"It has: {', '.join(steps)}"
    return UsageError(f"`{recipe}` has no step `{step}`", code="MM850", hint=hint)
