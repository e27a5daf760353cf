"""``mmbuild why``: explain why actions run, down to the edited line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options

if TYPE_CHECKING:
    from mmbuild.cli.why_traces import VariantTrace
    from mmbuild.pipeline.options import PlanOptions


@commands.command("why")
@click.argument(
    "recipes",
    type=click.Path(path_type=Path),
    metavar="RECIPE",
    callback=lambda _context, _argument, path: (path,),
)
@click.argument("step", required=False, metavar="[STEP]")
@options.planning("overrides", "offline", "allow_outside")
@options.location_options
@options.locked_option
@click.option("--key", "with_key", is_flag=True, help="Also show the parts of the step's key.")
@options.json_option("the reasons; their schema has a version")
def command(
    *,
    request: PlanOptions,
    step: str | None,
    store: Path | None,
    build_dir: Path,
    with_key: bool,
    as_json: bool,
) -> None:
    """Explain why actions of RECIPE would run, down to the line, version or file that changed.

    If everything is up to date, explains why the last build ran. STEP is a step such as `build_llm`, or
    `VARIANT/STEP` if the recipe has a matrix.

    Lines are found by trial: each changed value is reverted by itself, and the parts of an action's key that change
    with it are attributed to its line.

    \b
    Example:
      mmbuild why recipes/llava-int4.yaml
      mmbuild why recipes/llava-int4.yaml build_llm --key
    """
    from mmbuild.cli.why_traces import trace_variants

    variants = trace_variants(request, store, build_dir)
    matches = [variant for variant in variants if step is None or variant.matches(step)]
    if not matches and step is not None:
        raise _no_step(request.paths[0], step, variants)
    if as_json:
        click.echo(json.dumps([_data(variant, step, with_key) for variant in matches], indent=1))
        return
    blocks = ["\n".join(_text(variant, step, with_key)) for variant in matches]
    click.echo("\n\n".join(blocks))


def _text(variant: VariantTrace, step: str | None, with_key: bool) -> Iterator[str]:
    from mmbuild.inspect.diff.reports import chain, key_lines, overview

    if step is None:
        yield from overview(variant.trace, variant.edits)
        return
    label = variant.label(step)
    yield from chain(variant.trace, label, variant.edits)
    if with_key:
        yield ""
        yield from key_lines(*variant.keys(label))


def _data(variant: VariantTrace, step: str | None, with_key: bool) -> dict[str, Any]:
    from mmbuild.inspect.diff.reports import why_json

    data = why_json(variant.trace, variant.edits)
    if step is None:
        return data
    label = variant.label(step)
    data["actions"] = [action for action in data["actions"] if action["label"] == label]
    if with_key:
        action, inputs, key = variant.keys(label)
        data["key"] = {"definition": action.definition_key, "action": key, "inputs": dict(inputs)}
    return data


def _no_step(recipe: Path, step: str, variants: list[VariantTrace]) -> Exception:
    from mmbuild.base.diagnostics import nearest
    from mmbuild.base.errors import UsageError

    labels = [label for variant in variants for label in variant.build.actions]
    steps = list(dict.fromkeys(label.rpartition("/")[2] for label in labels))
    match = nearest(step, steps)
    hint = f"did you mean `{match}`?" if match else f"its steps are: {', '.join(steps)}"
    return UsageError(f"`{recipe}` has no step `{step}`", code="MM850", hint=hint)
