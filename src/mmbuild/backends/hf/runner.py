"""Asks a checkpoint through transformers, in this process."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.backends.base import Answer, Answers, OwnServer, RunRequest, VerifyRequest, present
from mmbuild.base.entries import load_entry
from mmbuild.base.status_line import working

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.backends.hf.engine import HfEngine


@dataclass(frozen=True, slots=True)
class HfRunner:
    """See :class:`mmbuild.backends.base.Runner`. Answers are greedy; servers do the rest."""

    build: Path
    description: Description
    run_options: frozenset[str] | None = frozenset(
        (
            "--image",
            "--prompt",
            "--max-new-tokens",
            "--ignore-generation-config",
            "--profile",
            "--json",
            "--check",
        )
    )
    verify_options: frozenset[str] | None = None
    has_own_question: bool = False
    compares: bool = True

    @property
    def own_server(self) -> OwnServer:
        """vLLM, with the recipe's numbers."""
        from mmbuild.backends.hf.commands import own_server
        from mmbuild.backends.hf.forms import form_of

        llm = self.description.llm
        return own_server("vllm", llm["serving"], str(self.build), form_of(llm["quant_algo"]))

    def load(self) -> HfEngine:
        """See :class:`mmbuild.backends.hf.engine.HfEngine`.

        Raises:
            CheckpointError: MM885, the config does not say of the weights what they are.
        """
        from mmbuild.backends.hf.directory import require_consistent
        from mmbuild.backends.hf.engine import HfEngine

        require_consistent(self.build, self.description.family)
        return HfEngine(self.build, self.description)

    def remarks(self, *, ignore_generation_config: bool) -> Iterable[str]:
        """Nothing: transformers applies the settings of the directory."""
        return ()

    def run(self, request: RunRequest, show: str) -> None:
        """Load the checkpoint, ask it and call ``show``."""
        from mmbuild.models.images import open_picture

        for path in dict.fromkeys(path for images, _ in request.pairs for path in images):
            open_picture(path)  # before seconds are spent on loading
        with working("loading the checkpoint"):
            from mmbuild.models.families.reference import ignore_generation_config

            engine = self.load()
        if request.ignore_generation_config:
            ignore_generation_config(engine.model)
        present(_answers(engine, request), request, show)

    def verify(self, request: VerifyRequest, compare: str) -> Iterable[str]:
        """Call ``compare``."""
        from dataclasses import asdict

        load_entry(compare)(build=str(self.build), **asdict(request))
        return ()


def _answers(engine: HfEngine, request: RunRequest) -> Answers:
    limit = min(request.max_new_tokens or engine.max_output_len, engine.max_output_len)
    if request.show == "text":
        return Answers(answer for answer, _ in _asked(engine, request, limit))
    started = time.perf_counter()
    found = list(_asked(engine, request, limit))
    seconds = time.perf_counter() - started
    tokens = sum(count for _, count in found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Answers(
        [answer for answer, _ in found],
        profile=(
            f"transformers {seconds * 1e3:9.2f} ms for {tokens} tokens, images and prompts included",
            f"peak memory  {peak / (1 << 20):9.0f} MiB",
        ),
        facts={
            "profile": {
                "seconds": seconds,
                "new_tokens": tokens,
                "tokens_per_second": tokens / seconds,
                "peak_bytes": peak,
            }
        },
    )


def _asked(engine: HfEngine, request: RunRequest, limit: int) -> Iterator[tuple[Answer, int]]:
    """Each answer as soon as it is complete, with its number of tokens."""
    for images, prompt in request.pairs:
        (encoded,) = engine.encode([list(images)], [prompt])
        tokens = engine.answer(encoded, limit).tokens
        yield Answer(tuple(images), prompt, (engine.text(tokens),), tokens), len(tokens)
