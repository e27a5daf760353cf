"""Asking an engine of backend torch: in this process, or in one process for each rank."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.backends.base import Answer, Answers, OwnServer, RunRequest, VerifyRequest, present
from mmbuild.backends.torch.request_limits import require_possible
from mmbuild.base.optional_packages import require
from mmbuild.base.status_line import working
from mmbuild.models.files.generation_settings import not_applied_text

if TYPE_CHECKING:
    from mmbuild.backends.base import Pair
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.backends.torch import Beams, Generation, Profile, Sampling
    from mmbuild.backends.torch.engine import Engine
    from mmbuild.backends.torch.generate import Stopping
    from mmbuild.models.families.processor import Processor, Request


@dataclass(frozen=True, slots=True)
class TorchRunner:
    """See :class:`mmbuild.backends.base.Runner`."""

    build: Path
    description: Description
    run_options: frozenset[str] | None = None
    verify_options: frozenset[str] | None = None
    has_own_question: bool = False
    compares: bool = True
    own_server: OwnServer | None = None

    def load(self) -> Engine:
        """See :meth:`mmbuild.backends.torch.engine.Engine.load`."""
        from mmbuild.backends.torch.engine import Engine

        return Engine.load(self.build, check=False)

    def remarks(self, *, ignore_generation_config: bool) -> Iterable[str]:
        """Settings of the model that are not applied (MM720), and emulated number formats."""
        if not ignore_generation_config:
            for name, value in self.description.settings_not_applied.items():
                yield f"warning: the model sets {not_applied_text(name, value)} [MM720]"
        note = emulation_note(self.description.llm, self.description.target)
        if note is not None:
            yield f"note: {note}"

    def run(self, request: RunRequest, show: str) -> None:
        """Load the engine, ask it and call ``show``, in rank 0 where there are several."""
        from mmbuild.backends.torch.distributed import launch
        from mmbuild.models.images import require_headers

        require("torch", "transformers", needed_by="running an engine")
        width = request.beams.get("width", 1)
        check_choice(request.sampling.get("temperature", 0.0) > 0, width > 1)
        if width >= 1:
            require_possible(self.description.family, self.description.llm, request)
        if request.batch is None:  # the pictures of a data set were checked when it was read
            require_headers(request.pairs)  # before the imports and the engine, which take seconds to load
        arguments = {"build": str(self.build), "request": asdict(request), "show": show}
        interrupts = (signal.SIGINT,) if request.interruptible else ()
        launch.run_on_ranks(
            self._ranks, "mmbuild.backends.torch.runner:answer", arguments, interrupts=interrupts
        )

    def verify(self, request: VerifyRequest, compare: str) -> Iterable[str]:
        """Call ``compare`` in every rank."""
        from mmbuild.backends.torch.distributed import launch
        from mmbuild.models.images import require_headers

        require_headers([(request.images, None)])  # before the imports and the engine, as in `run`
        launch.run_on_ranks(self._ranks, compare, {"build": str(self.build), **asdict(request)})
        return ()

    @property
    def _ranks(self) -> int:
        return int(self.description.llm["tensor_parallel"])


def answer(build: str, request: Mapping[str, Any], show: str) -> None:
    """Load the engine, ask it and call ``show``: what each rank does, of which rank 0 alone gets past loading.

    Args:
        build: The engine directory.
        request: :class:`~mmbuild.backends.base.RunRequest` as JSON.
        show: ``module:function`` of what prints.

    Raises:
        UsageError: MM520, tokens are drawn and beams searched at once.
    """
    asked = RunRequest(**request)
    with working("loading the engine"):  # importing torch takes seconds too
        from mmbuild.backends.torch import Beams, Engine, Sampling

        sampling, beams = Sampling(**asked.sampling), Beams(**asked.beams)
        check_choice(sampling.temperature > 0, beams.width > 1)
        processor = None if asked.batch is not None else _checked_processor(Path(build), asked.pairs)
        engine = Engine.load(
            build, check=False, processor=processor
        )  # the verb did, before ranks were started
    stopping = engine.stopping(asked.max_new_tokens, ignore_generation_config=asked.ignore_generation_config)
    if asked.batch is not None:
        present(Answers(_in_batches(engine, asked, stopping, sampling, beams)), asked, show)
        return
    requests, notes = _encoded(engine, asked.pairs)
    if asked.show == "stream":
        found = Answers(pieces=engine.stream_text(requests[0], stopping, sampling), notes=notes)
    else:
        with working("answering"):
            generation = _run(engine, requests, stopping, sampling, beams)
        found = _answers(asked.pairs, generation, notes)
    present(found, asked, show)


def _checked_processor(build: Path, pairs: Sequence[Pair]) -> Processor | None:
    """Check prompts and images before seconds are spent on loading the engine; returns the engine's processor.

    None in ranks other than 0, which get encoded requests.

    Raises:
        EngineError: MM512, a prompt is too long; MM517, an image cannot be read; MM518, prompt and images do not
            match.
    """
    from mmbuild.backends.engine_dir import description as layout
    from mmbuild.backends.torch.config import from_json
    from mmbuild.backends.torch.distributed import mpirun
    from mmbuild.backends.torch.session import check_lengths
    from mmbuild.models.families.processor import encode, load_processor

    if mpirun.rank_here():
        return None
    description = layout.read(build)
    config = from_json(description.llm)
    processor = load_processor(build / layout.PROCESSOR, description.family)
    lengths = [len(encode(processor, prompt, list(images)).ids) for images, prompt in pairs]
    if config.encoder is not None or not config.cross_len:  # others start with a single token
        check_lengths(config, lengths)
    return processor


def _encoded(engine: Engine, pairs: Sequence[Pair]) -> tuple[list[Request], tuple[str, ...]]:
    """Requests for ``pairs``, and how their images were read."""
    requests = engine.encode([list(images) for images, _ in pairs], [prompt for _, prompt in pairs])
    return requests, tuple(dict.fromkeys(how for item in requests for how in item.conversions))


def _run(
    engine: Engine, requests: Sequence[Request], stopping: Stopping, sampling: Sampling, beams: Beams
) -> Generation:
    """Answer in batches of at most max_batch_size. Each answer is drawn with its own seed, whatever the batch."""
    from mmbuild.backends.torch.outputs import joined
    from mmbuild.backends.torch.sampling import SEEDS

    size = engine.config.max_batch_size

    def run(start: int) -> Generation:
        own = replace(sampling, seed=(sampling.seed + start) % SEEDS)
        return engine.run(requests[start : start + size], stopping, own, beams)

    return joined([run(start) for start in range(0, len(requests), size)])


def _in_batches(
    engine: Engine, asked: RunRequest, stopping: Stopping, sampling: Sampling, beams: Beams
) -> Iterator[Answer]:
    """Answers to all pairs; images are opened batch by batch, so that a data set does not have to fit into memory."""
    from mmbuild.backends.torch.sampling import SEEDS

    size = asked.batch or len(asked.pairs)
    for start in range(0, len(asked.pairs), size):
        pairs = asked.pairs[start : start + size]
        requests, _ = _encoded(engine, pairs)
        own = replace(sampling, seed=(sampling.seed + start) % SEEDS)
        found = _answers(pairs, _run(engine, requests, stopping, own, beams), ())
        for item, encoded in zip(found.answers, requests, strict=True):
            yield replace(item, notes=encoded.conversions)


def _answers(
    pairs: Sequence[tuple[Sequence[str], str | None]], generation: Generation, notes: tuple[str, ...]
) -> Answers:
    profile = generation.profile
    names = ("visual_seconds", "prefill_seconds", "decode_seconds", "prompt_tokens", "new_tokens", "steps")
    measured = {name: getattr(profile, name) for name in names}
    measured |= {"tokens_per_second": profile.tokens_per_second, "peak_bytes": profile.peak_bytes}
    return Answers(
        [
            Answer(tuple(images), prompt, (item.text,), tuple(item.token_ids))
            for (images, prompt), item in zip(pairs, generation.answers, strict=True)
        ],
        notes=notes,
        profile=profile_lines(profile),
        facts={"profile": measured},
    )


def profile_lines(profile: Profile) -> tuple[str, ...]:
    """A profile for a terminal."""
    per_step = profile.decode_seconds / profile.steps * 1e3 if profile.steps else 0.0
    return (
        f"visual       {profile.visual_seconds * 1e3:9.2f} ms",
        f"prefill      {profile.prefill_seconds * 1e3:9.2f} ms for {profile.prompt_tokens} tokens",
        f"per token    {per_step:9.2f} ms over {profile.steps} steps",
        f"throughput   {profile.tokens_per_second:9.1f} tokens/s, prefill included",
        f"peak memory  {profile.peak_bytes / (1 << 20):9.0f} MiB",
    )


def emulation_note(llm: Mapping[str, Any], target: Mapping[str, Any]) -> str | None:
    """What an engine for ``target`` does not do as its quantization says; None where it does all of it."""
    if llm["quant_algo"] == "FP8" and target["device"] == "cpu":
        return "fp8 on a CPU is emulated: weights are rounded to float8, activations are not"
    return None


def check_choice(drawn: bool, searched: bool) -> None:
    """Refuse to draw tokens and to search beams at once.

    Raises:
        UsageError: MM520, both are requested.
    """
    if drawn and searched:
        from mmbuild.base.errors import UsageError

        raise UsageError(
            "--temperature draws tokens, and --num-beams searches the likeliest sequence",
            code="MM520",
            hint="Give one of them",
        )
