"""``mmbuild init``: a recipe to start from."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options
from mmbuild.cli.quantities import FiniteRange

if TYPE_CHECKING:
    from mmbuild.pipeline.new_recipe.limits import Limits, Machine
    from mmbuild.pipeline.new_recipe.text import Wanted

# A path outside the project's root.
_OUTSIDE = "MM122"


def _known_backend(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from mmbuild.schema.backend_names import names

    if value not in names():
        raise click.BadParameter(f"`{value}` is not one of {', '.join(sorted(names()))}")
    return value


def _build_name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The name as it is; the name of the file is made of it, and with ``-o -`` nothing else checks it."""
    from mmbuild.schema.model import NAME_PATTERN

    if value is not None and not re.fullmatch(NAME_PATTERN.strip("^$"), value):
        raise click.BadParameter(
            "a name has up to 100 letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
        )
    return value


@commands.command("init")
@click.argument("model", required=False)
@options.output_option(
    "Recipe to write (default: recipes/NAME.yaml if there is a directory `recipes`, else NAME.yaml); - prints it."
)
@click.option("--name", callback=_build_name, help="Name of the build (default: the model's).")
@click.option("--revision", help="Branch, tag or commit of a model on the hub (default: its newest commit).")
@click.option(
    "--backend", default="torch", show_default=True, callback=_known_backend, help="engine.backend."
)
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    help="What to build for (default: this machine; cuda for backends hf and tensorrt-llm).",
)
@click.option(
    "--memory",
    type=FiniteRange(0.1, 1e6),
    metavar="GB",
    help="Memory of that device (default: this one's).",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.PLAN_OPTIONS["offline"]
def command(
    *,
    model: str | None,
    output: Path | None,
    name: str | None,
    revision: str | None,
    backend: str,
    device: str | None,
    memory: float | None,
    force: bool,
    offline: bool,
) -> None:
    """Write a recipe for MODEL: a name on the hub, a page's address, or a directory.

    Finds the family that builds the model, and chooses number format and limits that fit into this machine's
    memory. The recipe is checked as `mmbuild validate` does.

    \b
    Example:
      mmbuild init llava-hf/llava-1.5-7b-hf
      mmbuild init ./my-llava -o recipes/mine.yaml
      mmbuild init Salesforce/blip2-opt-2.7b --device cuda --memory 24 -o -
    """
    from mmbuild.core.execution.resources import machine_memory
    from mmbuild.pipeline.new_recipe.limits import fitting
    from mmbuild.pipeline.new_recipe.model import ChosenModel, choose, named, relative_source, require_files
    from mmbuild.pipeline.new_recipe.text import Wanted, render

    source = named(_asked(model), revision)
    if revision is not None and source.revision is None:
        raise click.UsageError(f"`--revision` is for models on the hub, and `{source.source}` is a directory")
    chosen = choose(source, offline=offline)
    machine, is_this = _machine(device, memory, backend)
    limits = fitting(chosen.facts, chosen.config, machine)
    title = name or _name(chosen.main.short_name, limits.quantization)
    path = output or _default_path(title)
    directory = Path() if str(path) == "-" else path.parent
    placed = ChosenModel(relative_source(chosen.main, directory), chosen.vision, chosen.facts, chosen.config)
    wanted = Wanted(title, backend, machine, machine_memory(), is_this)
    text = render(placed, limits, wanted)
    if str(path) == "-":
        require_files(placed)
        click.echo(text, nl=False)
        return
    before = _write(path, text, force=force)
    open_revision = placed.main.source.startswith("hf://") and placed.main.revision is None
    _report(path, before, limits, wanted, offline=offline, open_revision=open_revision)


def _asked(model: str | None) -> str:
    if model is not None:
        return model
    if not sys.stdin.isatty():
        raise click.UsageError("name a model: owner/name on the hub, or a directory")
    answer: str = click.prompt("Model (owner/name on the hub, or a directory)", err=True)
    return answer.strip()


def _machine(device: str | None, memory: float | None, backend: str) -> tuple[Machine, bool]:
    """What to build for, and whether the recipe need not name it: it is this machine, or a checkpoint is built."""
    from mmbuild.base import gpu, host
    from mmbuild.core.execution.resources import machine_memory
    from mmbuild.pipeline.new_recipe.limits import Machine
    from mmbuild.schema.model import FOR_GPUS, PORTABLE

    here = host.default_target()["device"]
    kind = device or ("cuda" if backend in FOR_GPUS else here)
    if memory is not None:
        size = int(memory * 1e9)
    elif kind == "cuda":
        size = gpu.least_memory(gpu.visible_gpus())
    else:
        size = machine_memory()
    return Machine(kind, size), kind == here or (device is None and backend in PORTABLE)


def _name(model: str, quantization: str) -> str:
    """A build's name from a model's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-._").lower().removesuffix("-hf") or "model"
    return plain[:80] if quantization == "none" else f"{plain[:80]}-{quantization}"


def _default_path(name: str) -> Path:
    directory = Path("recipes")
    return (directory if directory.is_dir() else Path()) / f"{name}.yaml"


def _write(path: Path, text: str, *, force: bool) -> bytes | None:
    """Write the recipe; returns what was there before."""
    from mmbuild.base.errors import MmbuildError
    from mmbuild.core.store.atomic_files import write_whole

    if path.exists() and not force:
        raise MmbuildError(
            f"`{path}` exists",
            code="MM191",
            hint="write to another file with -o, or replace it with --force",
        )
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode("utf-8"))
    return before


def _report(
    path: Path,
    before: bytes | None,
    limits: Limits,
    wanted: Wanted,
    *,
    offline: bool,
    open_revision: bool,
) -> None:
    """Check the recipe as `validate` does, and say what comes next. One that cannot be built is taken back."""
    from mmbuild.base.diagnostics import render_text
    from mmbuild.base.formatting import size_text
    from mmbuild.base.shell import quote
    from mmbuild.cli.output import print_note, print_status, use_color
    from mmbuild.core.store.atomic_files import write_whole
    from mmbuild.pipeline.complete_models import with_missing_files
    from mmbuild.pipeline.load import load
    from mmbuild.pipeline.options import PlanOptions

    loaded, option = load(PlanOptions((path,), offline=offline)), ""
    if {item.code for item in loaded.diagnostics} == {_OUTSIDE}:
        loaded, option = load(PlanOptions((path,), offline=offline, allow_outside=True)), " --allow-outside"
        print_note("note: the model is outside the project of the recipe")
    loaded = with_missing_files(loaded)
    if loaded.diagnostics:
        click.echo(render_text(loaded.diagnostics, color=use_color()), err=True)
    if any(item.severity == "error" for item in loaded.diagnostics):
        path.unlink() if before is None else write_whole(path, before)
        print_status(f"`{path}` is as it was: the recipe for this model could not be built")
        sys.exit(1)
    click.echo(f"wrote {path}")
    if not limits.fits:
        print_note(
            f"note: the smallest engine takes about {size_text(limits.needs.total)}, "
            f"and the {wanted.machine.device} device has {size_text(wanted.machine.memory)}"
        )
    if open_revision and not offline:
        print_note(
            "note: the hub could not be reached: `mmbuild lock` pins the commit of the model once it can"
        )
    online = " --offline" if offline or open_revision else ""
    shown = quote(str(path))
    print_note(f"next: mmbuild plan {shown}{option}{online}\n      mmbuild apply {shown}{option}")
