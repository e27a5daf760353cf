"""What tests run in every rank, by ``mmbuild.backends.torch.distributed.launch.run_on_ranks``: a session small enough
to start in seconds.

The session really sums over ranks: its logits depend on every rank having done every call.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.backends.torch.aot_package import load_package
from mmbuild.backends.torch.distributed import collectives
from mmbuild.backends.torch.distributed.process_group import ProcessGroup, connect
from mmbuild.backends.torch.rank_worker import LeaderSession, serve_commands
from mmbuild.base.errors import MmbuildError


class Tally:
    """A session whose state is a number in each rank; rank r adds the number it gets times r + 1."""

    device = "cpu"

    def __init__(self, world: ProcessGroup) -> None:
        self._share = world.rank + 1
        self._ranks = world.size
        self._state = torch.zeros(1, 1)

    def prefill(self, prompts: Sequence[Sequence[int]], visual: Tensor) -> Tensor:
        if not prompts:
            raise MmbuildError("there is no prompt", code="MM511")
        sums = torch.tensor([[float(sum(prompt))] for prompt in prompts])
        self._state = self._share * (sums + visual.sum())
        return collectives.all_reduce(self._state, self._ranks)

    def decode(self, tokens: Tensor) -> Tensor:
        self._state = self._state + self._share * tokens[:, None]
        return collectives.all_reduce(self._state, self._ranks)

    def select(self, rows: Tensor) -> None:
        self._state = self._state[rows]


class TallyEngine:
    """The engine around it: pixels become the prompt table by doubling."""

    def __init__(self, session: Tally) -> None:
        self.session = session

    def inputs(self, requests: Sequence[tuple[list[int], Tensor]]) -> tuple[list[list[int]], Tensor]:
        return [ids for ids, _ in requests], 2 * torch.stack([pixels for _, pixels in requests])


def start(ranks: int = 2) -> tuple[ProcessGroup, TallyEngine, LeaderSession]:
    """In rank 0: the engine and its session. In the other ranks: obey."""
    world = connect(ranks, "cpu")
    engine = world.agree(lambda: TallyEngine(Tally(world)))
    if world.rank != 0:
        serve_commands(world, engine)
    return world, engine, LeaderSession(world, engine.session)


def tally(steps: int) -> None:
    """A whole life: inputs, prefill, ``steps`` decode steps, beams; every logit is printed."""
    _, engine, session = start()
    prompts, visual = session.inputs(engine.inputs, [([1, 2], torch.ones(3)), ([4], torch.zeros(3))])
    lines = [session.prefill(prompts, visual).tolist()]
    lines += [session.prefill(prompts, torch.full((2,), 0.5)).tolist()]
    lines += [session.decode(torch.tensor([1, 10])).tolist() for _ in range(steps)]
    session.select(torch.tensor([1, 1, 0]))
    lines += [session.decode(torch.tensor([0, 1, 2])).tolist()]
    try:
        session.prefill([], visual)
    except MmbuildError as error:
        lines += [error.code]
    lines += [session.prefill([[5]], torch.zeros(1)).tolist()]
    print(json.dumps(lines))


def reductions(count: int) -> None:
    """Random sums in every dtype and gathered vocabularies, each against what all ranks together know."""
    world = connect(2, "cpu")
    worst = 0.0
    for turn in range(count):
        generator = torch.Generator().manual_seed(turn)
        dtype = (torch.float32, torch.float16, torch.bfloat16)[turn % 3]
        shape = (int(torch.randint(1, 5, (), generator=generator)), 7 + turn)
        parts = [torch.randn(shape, generator=generator).to(dtype) for _ in range(2)]
        own = parts[world.rank].clone()
        worst = max(worst, float((collectives.all_reduce(own, 2) - sum(parts)).abs().max()))
        worst = max(
            worst, float((collectives.gather_vocabulary(own, 2) - torch.cat(parts, dim=1)).abs().max())
        )
        worst = max(worst, float((own - parts[world.rank]).abs().max()))
    everywhere = world.comm.allgather(worst)
    if world.rank == 0:
        print(json.dumps(everywhere))
    else:
        serve_commands(world, None)


def packaged(path: str) -> None:
    """A compiled package called again and again, each rank with its half of the weights."""
    world = connect(2, "cpu")
    generator = torch.Generator().manual_seed(0)
    up, head = (torch.randn(shape, generator=generator) / 8 for shape in ((64, 32), (50, 32)))
    mine = {
        "up": up.chunk(2, 0)[world.rank].contiguous(),
        "down": up.T.chunk(2, 1)[world.rank].contiguous(),
        "head": head.chunk(2, 0)[world.rank].contiguous(),
    }
    package = load_package(Path(path), "cpu")
    worst = 0.0
    for turn in range(300):
        x = torch.randn(1 + turn % 4, 32, generator=generator)
        whole = (x + torch.relu(x @ up.T) @ up) @ head.T
        with torch.inference_mode():
            (found,) = package([x, *mine.values()])
            worst = max(worst, float((found - whole).abs().max()))
    everywhere = world.comm.allgather(worst)
    if world.rank == 0:
        print(json.dumps(everywhere))
    else:
        serve_commands(world, None)


def failing(rank: int, how: str) -> None:
    """Rank ``rank`` fails while the ranks load: ``told`` with an MmbuildError, ``bug`` with any other exception."""
    world = connect(2, "cpu")

    def load() -> None:
        if world.rank == rank:
            raise MmbuildError("the weights are damaged", code="MM504") if how == "told" else KeyError("lost")

    world.agree(load)
    raise AssertionError("no rank goes on")


def failing_later(rank: int) -> None:
    """Rank ``rank`` fails in the first decode step, as it would for want of memory."""
    decode = Tally.decode

    def exhausted(self: Tally, tokens: Tensor) -> Tensor:
        if self._share == rank + 1:
            raise torch.OutOfMemoryError("no memory for the step")
        return decode(self, tokens)

    Tally.decode = exhausted  # type: ignore[method-assign]
    _, _, session = start()
    session.prefill([[1]], torch.zeros(1))
    session.decode(torch.tensor([1]))


def aborting() -> None:
    """Rank 0 dies of a library's assertion, which only descriptor 2 has heard of."""
    world = connect(2, "cpu")
    if world.rank == 0:
        os.write(2, b"terminate called after throwing an instance of 'gloo::IoException'\n\n")
        os.abort()
    serve_commands(world, None)


def outlived() -> None:
    """Rank 0 says who the ranks are and waits for a parent that is about to be killed."""
    world = connect(2, "cpu")
    pids = world.comm.gather(os.getpid())
    if world.rank != 0:
        serve_commands(world, None)
    print(json.dumps(pids), flush=True)
    signal.alarm(60)  # bounds a test that fails
    signal.pause()


def answers(build: str, lengths: Sequence[int], seed: int, tokens: int) -> None:
    """What an engine answers to random prompts: all at once, one by one, by beams."""
    from mmbuild.backends.torch import Engine

    engine = Engine.load(build)
    print(json.dumps(answers_of(engine, lengths, seed, tokens)))


def answers_of(engine: Any, lengths: Sequence[int], seed: int, tokens: int) -> list[list[list[int]]]:
    """Token ids by way of asking and by prompt; in this process."""
    from mmbuild.backends.torch.beam_search import Beams
    from support.engines.families import BEAMS, requests

    requested = requests(engine, list(lengths), seed)
    stopping = engine.stopping(tokens, ignore_eos=True)
    together = engine.run(requested, stopping).answers
    alone = [engine.run([request], stopping).answers[0] for request in requested]
    beams = engine.run(requested, stopping, beams=Beams(BEAMS)).answers
    return [[list(answer.token_ids) for answer in way] for way in (together, alone, beams)]


def in_parts(engine: Any, request: Any, tokens: int) -> list[int]:
    """Greedy tokens of a request whose prompt comes into another row in two parts."""
    (prompt,), visual = engine.inputs([request])
    engine.session.prefill([prompt[:2]], visual, rows=[1])
    logits = engine.session.extend([prompt[2:]], visual, rows=[1])
    answer = [int(logits.argmax())]
    while len(answer) < tokens:
        logits = engine.session.decode(torch.tensor(answer[-1:]), rows=[1])
        answer.append(int(logits.argmax()))
    return answer


def demo_answers(build: str, family: str, seed: int, tokens: int, forced: Sequence[Sequence[int]]) -> None:
    """What the engine of a shipped model answers, and its logits along given answers, by request."""
    from mmbuild.backends.torch import Engine

    engine = Engine.load(build)
    print(json.dumps(demo_answers_of(engine, family, seed, tokens, forced)))


def demo_answers_of(
    engine: Any, family: str, seed: int, tokens: int, forced: Sequence[Sequence[int]] = ()
) -> dict[str, Any]:
    """Greedy tokens of freshly drawn questions in one batch; logits [steps, vocab] of each of the first ones along
    ``forced``, left out along its own greedy tokens; greedy tokens of the first one, its prompt in two parts. In this
    process."""
    import demo_worlds

    requested = demo_worlds.ask(family, seed, 4, held_out=True)
    requests = engine.encode([list(item.pictures) for item in requested], [item.prompt for item in requested])
    greedy = [
        list(answer.token_ids)
        for answer in engine.run(requests, engine.stopping(tokens, ignore_eos=True)).answers
    ]
    logits = []
    for request, own in zip(requests, forced or greedy[:2], strict=False):
        prompts, visual = engine.inputs([request])
        rows = [engine.session.prefill(prompts, visual).clone()]
        rows += [engine.session.decode(torch.tensor([token])).clone() for token in own[:-1]]
        logits.append(torch.cat(rows).tolist())
    parts = [] if engine.config.cross_len else in_parts(engine, requests[0], tokens)
    return {"tokens": greedy, "logits": logits, "in parts": parts}
