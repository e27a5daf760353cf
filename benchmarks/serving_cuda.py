"""``mmbuild serve`` and vLLM's server on one GPU, measured by ``mmbuild bench --url`` with the same requests.

    python -m benchmarks.serving_cuda --dir DIR --llava MODEL [--vllm SITE] [--formats fp16 awq] [--clients 1 8 32]

MODEL has LLaVA's config, tokenizer and processor. An engine of its shapes for 32 sequences is built in DIR for each
format, as ``benchmarks.against_vllm`` does. vLLM is started with random weights of the same shapes and the same
format, without caches of prefixes and pictures; only its process sees SITE. Each server answers questions about one
picture of 336 x 336 with 129 tokens. One server runs at a time. Results of ``bench`` and logs of servers are written
to DIR, a table is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from benchmarks import against_vllm_engines as engines
from benchmarks.against_vllm import ENVIRONMENT
from benchmarks.against_vllm_rows import OURS, VLLM
from benchmarks.against_vllm_sides import LONGEST, VLLM_QUANTIZATION, Job

PORT = 8123
URL = f"http://127.0.0.1:{PORT}"
TOKENS = 129
SEQUENCES = 32
# Requests of a run by clients: some seconds each.
REQUESTS: Mapping[int, int] = {1: 12, 8: 64, 32: 160}
_PROMPT = "What is in this picture? Please answer in one sentence of plain English."


def build(room: Path, model: Path, form: str) -> Path:
    """Our engine directory."""
    job = Job(
        side=OURS,
        form=form,
        batches=[SEQUENCES],
        command="",
        date="",
        room=str(room),
        model=str(model),
        out="",
        until=0,
        tiny=False,
    )
    with mock.patch.dict(os.environ, ENVIRONMENT[OURS]):  # of the workers that build
        ((directory, _),) = engines.build(job)
    return directory


def ours(directory: Path) -> list[str]:
    """The command of our server."""
    return [sys.executable, "-m", "mmbuild", "serve", str(directory), "--port", str(PORT), "--no-check"]


def vllm(model: Path, room: Path, form: str) -> list[str]:
    """The command of vLLM's server, for a copy of the model's directory that describes the format."""
    method, quantization = VLLM_QUANTIZATION[form]
    described = room / f"vllm-{form}"
    described.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        (described / file.name).write_bytes(file.read_bytes())
    if quantization is not None:
        config = json.loads((model / "config.json").read_text()) | {"quantization_config": quantization}
        (described / "config.json").write_text(json.dumps(config))
    options = {
        "load-format": "dummy",
        "dtype": "float16",
        "max-model-len": str(LONGEST),
        "max-num-seqs": str(SEQUENCES),
        "gpu-memory-utilization": "0.6",
        "limit-mm-per-prompt": '{"image": 1}',
        "mm-processor-cache-gb": "0",
        "served-model-name": "llava",
        "host": "127.0.0.1",
        "port": str(PORT),
        **({"quantization": method} if method else {}),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    serve = ["-m", "vllm.entrypoints.cli.main", "serve", str(described), "--no-enable-prefix-caching"]
    return [sys.executable, *serve, *words]


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[float]:
    """A server that is ready; yields the seconds that it took."""
    if _answers():
        raise SystemExit(f"another server answers at {URL}: stop it first")
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        try:
            while not _answers():
                if process.poll() is not None:
                    raise SystemExit(f"{log} ended:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield time.monotonic() - began
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers() -> bool:
    """Whether the server lists a model and is ready."""
    try:
        with urllib.request.urlopen(f"{URL}/v1/models", timeout=5) as answer:
            return bool(json.load(answer)["data"])
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        return False


def bench(name: str, clients: int, tokens: int, room: Path) -> Mapping[str, float]:
    """One run; its figures in milliseconds and tokens a second."""
    out = room / f"{name}-{clients}.json"
    command = [sys.executable, "-m", "mmbuild", "bench", "--url", URL, "--clients", str(clients)]
    command += ["--requests", str(REQUESTS.get(clients, 4 * clients)), "--max-new-tokens", str(tokens)]
    command += ["--ignore-eos", "--prompt", _PROMPT, "-o", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (run,) = json.loads(out.read_text())["runs"]
    metrics = run["summary"]
    if metrics["failed"]:
        print(f"{name}: {metrics['failed']} requests failed: {metrics['failures']}", flush=True)
    return {
        "tokens/s": metrics["tokens_per_second"],
        "first": 1e3 * metrics["first_token"]["p50"],
        "per token": 1e3 * metrics["per_token"]["p50"],
    }


def measure(
    name: str, server: tuple[Sequence[str], Mapping[str, str]], arguments: argparse.Namespace
) -> None:
    """Start a server by its command and environment, and print its rows."""
    room: Path = arguments.dir
    with running(*server, room / f"{name}.log") as seconds:
        for count in arguments.clients:
            found = bench(name, count, arguments.tokens, room)
            cells = f"{found['tokens/s']:,.0f} | {found['first']:.1f} | {found['per token']:.2f}"
            print(f"| {name} | {seconds:.0f} s | {count} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="results and logs")
    parser.add_argument("--llava", type=Path, required=True, help="config, tokenizer and processor of LLaVA")
    parser.add_argument("--vllm", type=Path, help="the directory in which vLLM is installed")
    parser.add_argument("--formats", nargs="+", choices=list(VLLM_QUANTIZATION), default=["fp16", "awq"])
    parser.add_argument("--clients", nargs="+", type=int, default=list(REQUESTS))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    arguments = parser.parse_args()
    room = arguments.dir = arguments.dir.absolute()
    room.mkdir(parents=True, exist_ok=True)
    built = {form: build(room, arguments.llava, form) for form in arguments.formats}
    print(
        "| server | ready after | clients | tokens/s | median first token, ms | median time per token, ms |"
    )
    print("|---" * 6 + "|", flush=True)
    for form, directory in built.items():
        measure(f"mmbuild-{form}", (ours(directory), {}), arguments)
        if arguments.vllm is not None:
            command = vllm(arguments.llava, room, form)
            environment = {"PYTHONPATH": str(arguments.vllm), "HF_HUB_OFFLINE": "1"}
            quiet = ("VLLM_USE_FLASHINFER_SAMPLER", "VLLM_NO_USAGE_STATS")
            environment |= {name: ENVIRONMENT[VLLM][name] for name in quiet}
            measure(f"vllm-{form}", (command, environment), arguments)


if __name__ == "__main__":
    main()
