"""``mmbuild bench``: latency and throughput of an engine or of a server."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments

if TYPE_CHECKING:
    from mmbuild.serving.bench.load import Extent, Load
    from mmbuild.serving.bench.measured import Run
    from mmbuild.serving.bench.workload import Workload

_TOKENS, _REQUESTS, _TIMEOUT = 64, 32, 600.0
_CLIENTS = "1,2,4,8"
_POSITIVE = click.FloatRange(min=0, min_open=True)
_FOR_ENGINES, _FOR_SERVERS = ("batches",), ("model", "key_file", "timeout", "clients")


@commands.command("bench")
@build_arguments("build", required=False, metavar="[BUILD]")
@click.option("--url", help="Measure the OpenAI-compatible server at this URL instead of an engine.")
@click.option("--model", help="Model name in requests to a server (default: the only one that it lists).")
@click.option(
    "--api-key-file", "key_file", type=click.Path(path_type=Path), help="File with the server's API key."
)
@click.option(
    "--timeout",
    type=_POSITIVE,
    default=_TIMEOUT,
    show_default=True,
    help="Give up on a server's answer after this many seconds.",
)
@click.option(
    "--batch",
    "batches",
    metavar="N,...",
    help="Batch sizes of an engine (default: powers of 2 to its limit).",
)
@click.option(
    "--clients", metavar="N,...", help=f"Requests at the same time to a server (default: {_CLIENTS})."
)
@click.option("--rate", "rates", metavar="R,...", help="Requests per second, at random moments (Poisson).")
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    show_default=f"{_REQUESTS}, without --seconds",
    help="Requests of each run.",
)
@click.option("--seconds", type=_POSITIVE, help="Start no request of a run later than this.")
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Batches, or requests of each client, before a run; they are not measured.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="Image file; repeat for more (default: drawn ones).",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 4096),
    default=336,
    show_default=True,
    help="Height and width of drawn images, pixels.",
)
@click.option(
    "--prompt", "prompts", multiple=True, help="Prompt; repeat for more. An empty one sends only the image."
)
@options.max_new_tokens_option(
    "Maximum tokens per answer.",
    click.IntRange(min=1),
    show_default=f"{_TOKENS}, or the engine's limit if it is lower",
)
@click.option(
    "--ignore-eos",
    is_flag=True,
    help="Generate --max-new-tokens tokens each; servers need vLLM's `ignore_eos`.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32),
    default=0,
    show_default=True,
    help="Seed for images and arrivals.",
)
@options.output_option("Write the result as JSON, with every request.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with curves.")
@options.json_option("the result, instead of a table")
@options.check_option
@click.pass_context
def command(
    context: click.Context,
    *,
    build: Path | None,
    url: str | None,
    model: str | None,
    key_file: Path | None,
    timeout: float,
    batches: str | None,
    clients: str | None,
    rates: str | None,
    requests: int | None,
    seconds: float | None,
    warmup: int,
    images: tuple[str, ...],
    image_size: int,
    prompts: tuple[str, ...],
    max_new_tokens: int | None,
    ignore_eos: bool,
    seed: int,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    check: bool,
) -> None:
    """Measure latency and throughput of an engine, or of a server.

    BUILD is loaded into this process, or into one process for each of its ranks, and answers one batch at a time.
    With --url, requests go to a server that speaks OpenAI's protocol, such as vLLM. Each value of --batch, --clients
    and --rate is a run; it ends after --requests or --seconds, whichever comes first.

    An engine is code: loading one executes it, as with `mmbuild run`.

    The exit status is 1 if no request of a run got a complete answer. docs/bench.md describes what each number means
    and how to compare engines with servers.

    \b
    Example:
      mmbuild bench build/llava-shapes-int4 --batch 1,4 --rate 2 --ignore-eos -o int4.json --html int4.html
      mmbuild bench --url http://localhost:8000 --clients 1,4 --rate 2 --ignore-eos -o vllm.json
      mmbuild compare int4.json vllm.json
    """
    from mmbuild.models.image_files import require_usable
    from mmbuild.serving.bench.load import Extent
    from mmbuild.serving.bench.workload import PROMPT, Workload

    require_usable(Path(image) for image in images)
    extent = Extent(_REQUESTS if requests is None and seconds is None else requests, seconds, warmup)
    asked = tuple(prompt for prompt in prompts or (PROMPT,) if prompt)
    workload = Workload(images, image_size, asked, max_new_tokens or _TOKENS, ignore_eos, seed)
    _check_options(context, workload, output, html)
    shown = _Shown(output, html, as_json)
    if build is not None:
        _measure_engine(build, check, batches, rates, workload, extent, shown, lower=max_new_tokens is None)
    else:
        sweep = _of_server(url or "", model, key_file, timeout, clients, rates, workload)
        _run(sweep, extent, shown)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What is measured: the target as the result describes it, its loads, and the function that yields their runs."""

    target: Mapping[str, Any]
    loads: Sequence[Load]
    workload: Workload
    measure: Callable[[Sequence[Load], Extent, Workload, Callable[[Load], None]], Iterator[Run]]


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where the result goes: files, and the terminal as a table or as JSON."""

    output: Path | None
    html: Path | None
    as_json: bool


def _measure_engine(
    build: Path,
    check: bool,
    batches: str | None,
    rates: str | None,
    workload: Workload,
    extent: Extent,
    shown: _Shown,
    *,
    lower: bool,
) -> None:
    """Measure an engine in this process, or in one for each of its ranks; with ``lower``, the limit of tokens is at
    most the engine's."""
    from mmbuild.backends.torch.distributed import launch
    from mmbuild.backends.torch.request_limits import require_new_tokens
    from mmbuild.serving.bench import in_process

    description = options.checked_engine(build, check=check)
    in_process.require_measurable(build, description)
    limits = in_process.Limits(description.llm["max_batch_size"], description.llm["max_output_len"])
    loads = _loads("batch", batches, rates, _powers_of_two(limits.max_batch_size))
    in_process.require_limits(limits, loads)
    if lower:
        workload = replace(workload, max_tokens=min(workload.max_tokens, limits.max_output_len))
    else:
        require_new_tokens(workload.max_tokens, limits.max_output_len)
    arguments = {
        "build": str(build),
        "loads": [asdict(load) for load in loads],
        "workload": asdict(workload),
        "extent": asdict(extent),
        "output": str(shown.output) if shown.output else None,
        "html": str(shown.html) if shown.html else None,
        "as_json": shown.as_json,
    }
    launch.run_on_ranks(
        description.llm["tensor_parallel"],
        "mmbuild.cli.bench:measure_engine",
        arguments,
        interrupts=(signal.SIGINT,),
    )


def measure_engine(
    build: str,
    loads: Sequence[Mapping[str, Any]],
    workload: Mapping[str, Any],
    extent: Mapping[str, Any],
    output: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Load an engine, measure it and show the result: what each rank does, of which rank 0 alone gets past loading.

    Args:
        build: The engine directory.
        loads: Fields of each load.
        workload: Fields of the workload.
        extent: Fields of the extent.
        output: File for the result as JSON, if any.
        html: File for its page, if any.
        as_json: Whether to print JSON instead of a table.
    """
    from mmbuild.backends.engine_dir import description as layout
    from mmbuild.serving.bench import in_process
    from mmbuild.serving.bench.load import Extent, Load
    from mmbuild.serving.bench.workload import Workload

    engine = Path(build)
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in workload.items()
    }
    sweep = _Sweep(
        in_process.target_of(engine, layout.read(engine)),
        [Load(**load) for load in loads],
        Workload(**fields),
        partial(in_process.measure, engine),
    )
    shown = _Shown(Path(output) if output else None, Path(html) if html else None, as_json)
    _run(sweep, Extent(**extent), shown)


def _of_server(
    url: str,
    model: str | None,
    key_file: Path | None,
    timeout: float,
    clients: str | None,
    rates: str | None,
    workload: Workload,
) -> _Sweep:
    from mmbuild.serving.bench import endpoint, server

    loads = _loads("clients", clients, rates, _CLIENTS)
    key = None if key_file is None else endpoint.read_key(key_file)
    found = endpoint.identify(endpoint.Server(endpoint.base_url(url), model, key, timeout))
    return _Sweep(endpoint.target_of(found), loads, workload, partial(server.measure, found))


def _loads(kind: str, sizes: str | None, rates: str | None, otherwise: str) -> list[Load]:
    """The loads of both options; ``otherwise`` if neither is given."""
    from mmbuild.serving.bench.load import parse

    chosen = otherwise if sizes is None and rates is None else sizes
    closed = [] if chosen is None else parse(kind, chosen)
    return [*closed, *([] if rates is None else parse("rate", rates))]


def _powers_of_two(most: int) -> str:
    return ",".join(str(1 << power) for power in range(most.bit_length()))


def _check_options(
    context: click.Context, workload: Workload, output: Path | None, html: Path | None
) -> None:
    """Refuse what would fail later, or be ignored.

    Raises:
        UsageError: MM860.
    """
    from mmbuild.models.validation.prompts import require_unicode

    require_unicode(workload.prompts)
    build, url = context.params["build"], context.params["url"]
    if (build is None) == (url is None):
        raise _unfit("bench measures either an engine or a server", "give either BUILD or `--url`")
    explicit = click.core.ParameterSource.COMMANDLINE
    for name in _FOR_ENGINES if build is None else _FOR_SERVERS:
        if context.get_parameter_source(name) is explicit:
            option = next(one for one in context.command.params if one.name == name).opts[0]
            kinds = ("an engine", "a server") if build is None else ("a server", "an engine")
            raise _unfit(f"`{option}` is an option for {kinds[0]}, but {kinds[1]} is measured", "remove it")
    for path in (output, html):
        if path is not None and not path.parent.is_dir():
            raise _unfit(f"`{path.parent}` is not a directory, so `{path}` cannot be written", "create it")


def _unfit(message: str, hint: str) -> Exception:
    from mmbuild.base.errors import UsageError

    return UsageError(message, code="MM860", hint=hint)


def _report(load: Load) -> None:
    from mmbuild.cli.output import print_note

    print_note(f"measuring {load.name} ...")


def _run(sweep: _Sweep, extent: Extent, shown: _Shown) -> None:
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


def _show(result: Mapping[str, Any], shown: _Shown) -> None:
    """Write the files, then print the table or the JSON."""
    from mmbuild.cli.tables import print_folded
    from mmbuild.serving.bench.document import as_text
    from mmbuild.serving.bench.page import page
    from mmbuild.serving.bench.rows import failure_lines, notes, row_of
    from mmbuild.serving.bench.table import print_table

    if shown.output is not None:
        shown.output.write_text(as_text(result), encoding="utf-8")
    if shown.html is not None:
        shown.html.write_text(page(result), encoding="utf-8")
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
