"""``mmbuild bench``: latency and throughput of an engine or of a server."""

from __future__ import annotations

import signal
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmbuild.cli import commands, options
from mmbuild.cli.bench_sweep import Shown, Sweep, run
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.quantities import FiniteRange

if TYPE_CHECKING:
    from mmbuild.serving.bench.load import Extent, Load
    from mmbuild.serving.bench.workload import Workload

_TOKENS, _REQUESTS, _TIMEOUT = 64, 32, 600.0
_CLIENTS = "1,2,4,8"
_POSITIVE = FiniteRange(min=0, min_open=True)
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
    show_default=f"{_TOKENS}, or the limit of the engine, or of a server of mmbuild's, if it is lower",
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
    shown = Shown(str(output) if output else None, str(html) if html else None, as_json)
    if build is not None:
        _measure_engine(build, check, batches, rates, workload, extent, shown, lower=max_new_tokens is None)
    else:
        sweep = _of_server(
            url or "", model, key_file, timeout, clients, rates, workload, lower=max_new_tokens is None
        )
        run(sweep, extent, shown)


def _measure_engine(
    build: Path,
    check: bool,
    batches: str | None,
    rates: str | None,
    workload: Workload,
    extent: Extent,
    shown: Shown,
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
        "shown": asdict(shown),
    }
    launch.run_on_ranks(
        description.llm["tensor_parallel"],
        "mmbuild.cli.bench_sweep:measure_engine",
        arguments,
        interrupts=(signal.SIGINT,),
    )


def _of_server(
    url: str,
    model: str | None,
    key_file: Path | None,
    timeout: float,
    clients: str | None,
    rates: str | None,
    workload: Workload,
    *,
    lower: bool,
) -> Sweep:
    """``lower``: as in :func:`_measure_engine`, if the server states its engine's limit."""
    from mmbuild.serving.bench import endpoint, server

    loads = _loads("clients", clients, rates, _CLIENTS)
    key = None if key_file is None else endpoint.read_key(key_file)
    found = endpoint.identify(endpoint.Server(endpoint.base_url(url), model, key, timeout))
    if lower and found.most_tokens is not None:
        workload = replace(workload, max_tokens=min(workload.max_tokens, found.most_tokens))
    return Sweep(endpoint.target_of(found), loads, workload, partial(server.measure, found))


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
        if problem := options.unwritable(path):
            raise _unfit(*problem)


def _unfit(message: str, hint: str) -> Exception:
    from mmbuild.base.errors import UsageError

    return UsageError(message, code="MM860", hint=hint)
