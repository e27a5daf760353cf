"""``mmbuild serve``: answer questions over HTTP."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.quantities import FiniteRange


@commands.command("serve")
@build_arguments("build")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 chooses one."
)
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), help="File with the key that clients must send."
)
@click.option("--model-name", help="Name of the model in the protocol (default: the name of BUILD).")
@click.option(
    "--queue",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    help="Requests that may wait for a slot; others get status 429.",
)
@click.option(
    "--allow-image-host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Host from which pictures may be fetched; repeat for several. Default: none.",
)
@click.option(
    "--max-stall",
    type=FiniteRange(0.001, 60),
    default=0.2,
    show_default=True,
    help="Seconds that reading a new prompt may hold up the answers under way, approximately.",
)
@click.option(
    "--drain-seconds",
    type=FiniteRange(0, 3600),
    default=30,
    show_default=True,
    help="Time for answers under way after SIGTERM.",
)
@click.option(
    "--answer-seconds",
    type=FiniteRange(0.1),
    default=600,
    show_default=True,
    help="Time limit of an answer.",
)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="File to append one line of JSON to for each step."
)
@options.check_option
def command(
    build: Path,
    host: str,
    port: int,
    api_key_file: Path | None,
    model_name: str | None,
    queue: int,
    hosts: tuple[str, ...],
    max_stall: float,
    drain_seconds: float,
    answer_seconds: float,
    trace: Path | None,
    check: bool,
) -> None:
    """Serve a built engine over OpenAI's protocol.

    BUILD is the directory that `mmbuild apply` prints, or its name. Requests share the engine's steps: as many as
    max_batch_size in its recipe are answered at once, the others wait. Answers are greedy unless a request has a
    temperature. The ranks of an engine that is split over several are started and ended with the server.

    Without --api-key-file only this host can connect. Pictures are sent as data: URLs. docs/serving.md lists what is
    supported.

    \b
    Example:
      mmbuild serve build/llava-shapes-int4
      curl http://127.0.0.1:8000/v1/models
    """
    from mmbuild.base.optional_packages import require
    from mmbuild.serving.loadable import require_loadable

    description = options.checked_engine(build, check=check)
    require_loadable(build, description)
    require("starlette", "uvicorn", "prometheus_client", needed_by="serving an engine", extra="serve")
    from mmbuild.backends.torch.distributed import launch, mpirun
    from mmbuild.serving.address import listener, read_key, require_key

    if not mpirun.rank_here():  # what rank 0 would notice after seconds of imports
        require_key(host, read_key(api_key_file) if api_key_file else None)
        listener(host, port, backlog=1).close()
    ranks = description.llm["tensor_parallel"]
    arguments = {
        "build": str(build),
        "ranks": ranks,
        "host": host,
        "port": port,
        "api_key_file": str(api_key_file) if api_key_file else None,
        "model": model_name or build.resolve().name,
        "queue": queue,
        "hosts": hosts,
        "longest_wait": max_stall,
        "drain_seconds": drain_seconds,
        "answer_seconds": answer_seconds,
        "trace": str(trace) if trace else None,
    }
    ends = (signal.SIGTERM, signal.SIGINT)
    launch.run_on_ranks(ranks, "mmbuild.serving.start:start", arguments, interrupts=ends)
