"""A server under load: clients that stream answers of a demo engine, and what that leaves behind.

    python -m benchmarks.serve_load BUILD [--clients 64] [--seconds 120]

BUILD is the engine of recipes/demo/llava.yaml. Every client asks one question after the other with OpenAI's client
and compares each answer with the one that was given before, when nobody else asked. The queue holds as many
requests as there are clients. Memory is the server's resident memory, once after 20 seconds of load and once at the
end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import demo_worlds  # noqa: E402 (lies in tools/)
from benchmarks.report import Row, machine, table  # noqa: E402

_WARM = 20.0
_QUESTIONS = 24


def start(build: Path, trace: Path, queue: int) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port, ready to answer, and its URL."""
    command = [sys.executable, "-m", "mmbuild", "serve", str(build), "--port", "0", "--queue", str(queue)]
    log = trace.with_suffix(".log").open("w")
    process = subprocess.Popen([*command, "--trace", str(trace)], stderr=log, text=True)
    while True:
        text = trace.with_suffix(".log").read_text()
        if "ready:" in text:
            return process, re.search(r"listening at (\S+)", text)[1]  # type: ignore[index]
        if process.poll() is not None:
            raise SystemExit(text)
        time.sleep(0.1)


def body(asked: demo_worlds.Asked) -> list[dict[str, Any]]:
    """Messages about one picture."""
    out = io.BytesIO()
    asked.pictures[0].save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": asked.question},
            ],
        }
    ]


async def answer(client: Any, model: str, messages: list[dict[str, Any]]) -> str:
    """A streamed answer."""
    pieces = []
    stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
    return "".join(pieces)


async def load(url: str, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Ask for ``seconds``; what came of it."""
    import openai

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
    model = (await client.models.list()).data[0].id
    questions = [body(asked) for asked in demo_worlds.ask("llava", 4711, _QUESTIONS, held_out=False)]
    alone = [await answer(client, model, messages) for messages in questions]
    end, wrong, failed, answered = time.monotonic() + seconds, 0, 0, 0

    async def ask(number: int) -> None:
        nonlocal wrong, failed, answered
        place = number
        while time.monotonic() < end:
            place = (place + 7) % len(questions)
            try:
                given = await answer(client, model, questions[place])
            except openai.OpenAIError as error:
                failed += 1
                print("failed:", error, flush=True)
                continue
            answered += 1
            wrong += given != alone[place]

    tasks = [asyncio.create_task(ask(number)) for number in range(clients)]
    await asyncio.sleep(_WARM)
    before = usage(pid)
    await asyncio.gather(*tasks)
    await client.close()
    await asyncio.sleep(1)
    return {
        "answered": answered,
        "wrong": wrong,
        "failed": failed,
        "before": before,
        "after": usage(pid),
        "metrics": _get(f"{url}/metrics"),
    }


def _get(url: str) -> str:
    import httpx

    return httpx.get(url).text


def usage(pid: int) -> tuple[float, int]:
    """Megabytes of resident memory, and open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3  # type: ignore[index]
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


def rows(found: dict[str, Any], trace: list[dict[str, Any]], log: str, queue: int) -> list[Row]:
    """What is to be seen, with its bounds."""
    lines = re.findall(r" 200 \S+ prompt=\d+ tokens=\d+ queued=([\d.]+) first=[\d.]+ total=([\d.]+)", log)
    queued = sorted(float(one) for one, _ in lines)
    service = statistics.mean(float(total) - float(one) for one, total in lines)
    slots = max(step["decoded"] for step in trace)
    decoding = [step for step in trace if step["decoded"]]
    full = sum(step["decoded"] >= 4 for step in decoding) / len(decoding)
    joins = sum(step["read"] > 0 for step in decoding)
    limit = 1.5 * queue * service / slots
    running = re.search(r"\nmmbuild_requests_running (\S+)", found["metrics"])[1]  # type: ignore[index]
    waiting = re.search(r"\nmmbuild_requests_waiting (\S+)", found["metrics"])[1]  # type: ignore[index]
    return [
        Row("answers", f"{found['answered']:,}", f"{found['failed']} failed"),
        Row("answers that differ from those given alone", str(found["wrong"]), "", "0"),
        Row("p99 of the time in the queue", f"{queued[int(0.99 * len(queued))]:.2f} s", "", f"{limit:.2f} s"),
        Row("steps of 4 requests or more", f"{100 * full:.1f} %", f"of {len(decoding):,} steps"),
        Row("requests that joined while others were decoded", f"{joins:,}"),
        Row("resident memory", f"{found['after'][0]:.0f} MB", f"after 20 s {found['before'][0]:.0f} MB"),
        Row("open files", str(found["after"][1]), f"under load {found['before'][1]}"),
        Row("requests in slots and waiting, afterwards", f"{running}, {waiting}", "", "0.0, 0.0"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        trace = Path(room) / "trace.jsonl"
        process, url = start(arguments.build, trace, arguments.clients)
        try:
            found = asyncio.run(load(url, process.pid, arguments.clients, arguments.seconds))
        finally:
            process.terminate()
            print("exit status after SIGTERM:", process.wait(60), flush=True)
        steps = [json.loads(line) for line in trace.read_text().splitlines()]
        log = trace.with_suffix(".log").read_text()
    print(f"{arguments.clients} clients, {arguments.seconds:g} s, {machine()}\n")
    print(table(rows(found, steps, log, arguments.clients)))


if __name__ == "__main__":
    main()
