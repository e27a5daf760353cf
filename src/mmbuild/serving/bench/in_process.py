"""Measures an engine of backend torch in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.engine_dir.summary import summarize
from mmbuild.base.errors import MmbuildError, UsageError
from mmbuild.base.status_line import working
from mmbuild.evaluation import engine_manifest
from mmbuild.serving.bench import batches
from mmbuild.serving.bench.batches import Answered
from mmbuild.serving.bench.load import Extent, Load
from mmbuild.serving.bench.measured import Run
from mmbuild.serving.bench.records import clock
from mmbuild.serving.bench.workload import Question, Workload, next_questions, questions
from mmbuild.serving.loadable import own_server

if TYPE_CHECKING:
    from mmbuild.backends.torch import Engine


class CannotMeasureError(MmbuildError):
    """An engine that this process cannot load and step (MM862)."""


def require_measurable(build: Path, description: Description) -> None:
    """Refuse engines of other backends.

    Raises:
        CannotMeasureError: MM862.
    """
    if own_server(build, description) is None:
        return
    raise CannotMeasureError(
        f"`{build}` has backend {description.backend}, but bench loads engines of backend torch",
        code="MM862",
        hint="serve the engine and measure the server with --url",
    )


class HasBatches(Protocol):
    """What has a largest batch: engine.json's limits, or the engine's configuration."""

    @property
    def max_batch_size(self) -> int:
        """Most prompts that are answered together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Limits in engine.json, which can be read without torch.

    Attributes:
        max_batch_size: Most prompts that are answered together.
        max_output_len: Most tokens of an answer.
    """

    max_batch_size: int
    max_output_len: int


def require_limits(config: HasBatches, loads: Sequence[Load]) -> None:
    """Refuse batches that are larger than the engine's.

    Raises:
        UsageError: MM860.
    """
    largest = max((load.at_once for load in loads), default=1)
    if largest > config.max_batch_size:
        raise UsageError(
            f"batches of {largest} are requested, but the engine supports 1 to {config.max_batch_size}",
            code="MM860",
            hint="use smaller batches, or raise max_batch_size in the recipe",
        )


def target_of(build: Path, description: Description) -> dict[str, Any]:
    """The ``target`` of a result: the engine, its recipe, precision, versions and sizes."""
    llm, target = description.llm, description.target
    facts = summarize(build, description)
    return {
        "kind": "engine",
        "name": build.name or str(build),
        "path": str(build),
        "recipe": engine_manifest.recipe(build),
        "artifact": engine_manifest.engine(build),
        "versions": facts["versions"],
        "bytes": facts["bytes"],
        "family": description.family,
        "dtype": llm.get("dtype"),
        "quant_algo": llm.get("quant_algo"),
        "device": " ".join(str(target[key]) for key in ("device", "sm", "isa") if target.get(key)),
        "max_batch_size": llm["max_batch_size"],
    }


def measure(
    build: Path, loads: Sequence[Load], extent: Extent, workload: Workload, report: Callable[[Load], None]
) -> Iterator[Run]:
    """Load the engine, which was checked, and yield each run as it ends.

    Raises:
        EngineError: The engine cannot be loaded, or a prompt or the batch exceeds its limits.
    """
    from mmbuild.backends.torch import Engine

    with working("loading the engine"):
        target = EngineTarget(Engine.load(build, check=False), workload)
    source = questions(target.workload)
    for load in loads:
        report(load)
        target.questions = next_questions(source, extent.requests)
        with working(f"measuring {load.name}"):
            target.warm_up(load, extent.warmup)
            records = batches.run(target.answer, load, extent, most=target.most, seed=workload.seed)
        yield Run(load, tuple(records), distinct_questions=len(target.questions))


class EngineTarget:
    """Answers batches of questions and notes when tokens arrive.

    The time of a batch includes decoding its pictures, as a server's would.
    """

    def __init__(self, engine: Engine, workload: Workload) -> None:
        self.engine = engine
        takes_text = engine.processor.takes_text
        self.workload = workload if takes_text else dataclasses.replace(workload, prompts=())
        self.most = engine.config.max_batch_size
        self.questions: Sequence[Question] = ()
        stopping = engine.stopping(workload.max_tokens, ignore_eos=workload.ignore_eos)
        # The end token takes a step too, and servers count it.
        self._stopping = dataclasses.replace(stopping, with_end_token=True)
        self._warm: set[int] = set()

    def warm_up(self, load: Load, times: int) -> None:
        """Answer batches of every size that the load can have, which compiles and captures what is needed."""
        sizes = range(1, self.most + 1) if load.kind == "rate" else (load.at_once,)
        for size in sizes:
            for _ in range(times if size not in self._warm else 0):
                self.answer(range(size))
            self._warm.add(size)

    def answer(self, numbers: Sequence[int]) -> list[Answered]:
        """See :data:`mmbuild.serving.bench.batches.Answer`."""
        from mmbuild.backends.torch.generate import stream

        engine = self.engine
        asked = [self.questions[number % len(self.questions)] for number in numbers]
        requests = engine.encode(
            [question.picture for question in asked], [question.prompt for question in asked]
        )
        prompts, visual = engine.inputs(requests)
        moments: list[list[float]] = [[] for _ in asked]
        for step in stream(engine.session, prompts, visual, self._stopping):
            now = clock()
            for own, token in zip(moments, step, strict=True):
                if token is not None:
                    own.append(now)
        return [
            Answered(own[0] if own else None, own[-1] if own else None, len(own), len(prompt))
            for own, prompt in zip(moments, prompts, strict=True)
        ]
