"""What a server does on the host for each step: an engine whose steps take no time, and clients that only read.

    python -m benchmarks.serve_steps [--streams 1,8,32] [--tokens 400] [--step-ms 0] [--profile FILE]

Everything but the engine is real: the scheduler, the choice of tokens, detokenization with the demo model's
tokenizer, the protocol and HTTP. Clients are a second process, which reads its streams and throws them away. A step
is a token of every stream. The best of three rounds is shown: wall time from the first to the last step by their
number, and the server's CPU time likewise. With ``--step-ms`` the engine takes that long for a step and leaves the
CPU alone meanwhile, as one on a GPU does: the next step begins when it has ended, and what the host does until then
costs nothing. ``--profile`` writes cProfile's numbers of the engine's thread.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import uvicorn
from transformers import AutoTokenizer

from mmbuild.backends.torch.generate import Stopping
from mmbuild.models.families.processor import Processor, Request
from mmbuild.serving.app import Server
from mmbuild.serving.engine_loop import EngineLoop, Step
from mmbuild.serving.http import TimedProtocol
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.server import listener
from mmbuild.serving.service import Service

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "models" / "llava-shapes"
_CLIENT = "--client"


class Session:
    """Logits that were made before: a step is a look at them."""

    device = "cpu"

    def __init__(self, slots: int, vocabulary: int, seconds: float) -> None:
        self._seconds, self._ready = seconds, 0.0
        # Every row has its own answer, and its tokens change from step to step.
        self._tables = [torch.zeros(slots, vocabulary) for _ in range(7)]
        for turn, table in enumerate(self._tables):
            table[torch.arange(slots), (torch.arange(slots) * 13 + turn * 5) % (vocabulary - 20) + 10] = 1.0
        self._turn = 0

    def prefill(self, prompts: Any, table: Any, rows: list[int]) -> torch.Tensor:  # noqa: ARG002
        """Logits float32 [rows, vocabulary]."""
        return self._tables[0][: len(rows)]

    extend = prefill

    def decode(self, tokens: torch.Tensor, rows: list[int]) -> torch.Tensor:  # noqa: ARG002
        """Logits float32 [rows, vocabulary]; begins when the step before has ended."""
        time.sleep(max(0.0, self._ready - time.perf_counter()))
        self._ready = time.perf_counter() + self._seconds
        self._turn += 1
        return self._tables[self._turn % len(self._tables)][: len(rows)]


class Engine:
    """What a service uses of an engine."""

    def __init__(self, slots: int, tokens: int, seconds: float) -> None:
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.session = Session(slots, len(tokenizer), seconds)
        self.config = SimpleNamespace(
            max_batch_size=slots,
            max_input_len=64,
            max_output_len=tokens,
            llm=SimpleNamespace(cross_attention=False),
        )
        self.processor = Processor(
            tokenizer,
            lambda *_: Request((1, 2, 3), torch.empty(0)),
            None,
            lambda *_: Request((1, 2, 3), torch.empty(0)),
        )

    def inputs(self, requests: list[Request]) -> tuple[list[list[int]], torch.Tensor]:
        """Prompts, and no features."""
        return [list(one.ids) for one in requests], torch.empty(0)

    def stopping(self, count: int | None = None, *, ignore_eos: bool = False) -> Stopping:  # noqa: ARG002
        """No end tokens."""
        return Stopping(count or self.config.max_output_len, ())

    def decoded(self, ids: Any) -> str:
        """Text of tokens."""
        text: str = self.processor.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


async def _read(port: int, streams: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "count"}], "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        count, tail = 0, b""
        while b"[DONE]" not in tail:
            part = await reader.read(1 << 16)
            if not part:
                raise SystemExit("the server closed a stream")
            count, tail = count + part.count(b"data: "), tail[-8:] + part
        writer.close()
        return count

    print(sum(await asyncio.gather(*(one() for _ in range(streams)))))


def measure(
    streams: int, tokens: int, seconds: float, profile: cProfile.Profile | None
) -> tuple[float, float, int]:
    """Seconds of a step on the clock, of CPU, and the events that the clients got."""
    steps: list[Step] = []
    loop = EngineLoop(
        Engine(streams, tokens, seconds), queue=streams, trace=steps.append, overlap=seconds > 0
    )
    if profile is not None:
        run = loop._run
        loop._thread = threading.Thread(target=lambda: profile.runcall(run), daemon=True)
    loop.start()
    server = Server()
    server.service = Service(loop._engine, loop, "none", PicturePolicy())
    config = uvicorn.Config(server.app(), port=0, http=TimedProtocol, lifespan="off", log_level="critical")
    http, bound = uvicorn.Server(config), listener(config)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    port = bound.getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()
    command = [sys.executable, "-m", "benchmarks.serve_steps", _CLIENT, str(port), "--streams", str(streams)]
    used = time.process_time()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    used = time.process_time() - used
    http.should_exit = True
    thread.join()
    loop.close(10)
    full = [step for step in steps if step.decoded == streams]
    if len(full) < tokens // 4:
        raise SystemExit(f"{streams} streams met in only {len(full)} steps: give more --tokens")
    wall = (full[-1].began + full[-1].seconds - full[0].began) / len(full)
    return wall, used / len(full), int(done.stdout)


def main() -> None:
    """Print a line for each number of streams."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--profile", type=Path)
    parser.add_argument(_CLIENT, type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.client is not None:
        asyncio.run(_read(chosen.client, int(chosen.streams)))
        return
    torch.set_num_threads(1)
    profile = cProfile.Profile() if chosen.profile else None
    print("streams  ms a step  CPU ms a step  events")
    for streams in map(int, chosen.streams.split(",")):
        rounds = [
            measure(streams, chosen.tokens, chosen.step_ms / 1e3, profile) for _ in range(1 if profile else 3)
        ]
        wall, cpu, events = min(rounds)
        print(f"{streams:7}  {wall * 1e3:9.3f}  {cpu * 1e3:13.3f}  {events:6}", flush=True)
    if profile is not None:
        profile.dump_stats(chosen.profile)


if __name__ == "__main__":
    main()
