"""The engine API: loads an engine directory and answers prompts about images."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmbuild.backends.engine_dir import contents
from mmbuild.backends.engine_dir import description as layout
from mmbuild.backends.torch import aot_package, weights
from mmbuild.backends.torch.beam_search import Beams, search
from mmbuild.backends.torch.config import EngineConfig, from_json
from mmbuild.backends.torch.generate import Stopping, collect, stream, trim_repetition
from mmbuild.backends.torch.logits_processors import LogitsRules
from mmbuild.backends.torch.outputs import Answer, Generation, Profile
from mmbuild.backends.torch.sampling import Sampling
from mmbuild.backends.torch.session import Session, check_count
from mmbuild.backends.torch.visual_loading import load_visual
from mmbuild.backends.torch.weights import check_caches, check_memory, check_weights
from mmbuild.models.errors import EngineError
from mmbuild.models.families import family
from mmbuild.models.families.processor import Image, Processor, Request, encode, load_processor
from mmbuild.models.families.shared.hugging_face import text_of, unsettled_characters
from mmbuild.models.files.generation_settings import START
from mmbuild.models.text_stream import TextStream
from mmbuild.models.validation.prompts import require_unicode

if TYPE_CHECKING:
    from mmbuild.backends.comparison import Comparison
    from mmbuild.models.families.reference import Continuation


class Engine:
    """An engine of the torch backend.

    >>> engine = Engine.load("build/llava-shapes-int4")
    >>> [answer] = engine.generate(images=["a.png"], prompts=["how many shapes ?"])
    """

    def __init__(
        self,
        directory: Path,
        description: layout.Description,
        rank: int = 0,
        processor: Processor | None = None,
    ) -> None:
        """Use :meth:`load` instead; ``rank`` selects the weights.

        Only rank 0 has a processor: the other ranks get encoded requests and need no transformers.
        """
        self.directory = directory
        self.description = description
        self.config = _with_start(from_json(description.llm), description)
        aot_package.check_target(description.target, description.toolchain["torch"])
        if rank == 0:
            self.processor = processor or load_processor(directory / layout.PROCESSOR, description.family)
        self.visual = load_visual(directory / layout.VISUAL, description.target)
        files = weights.rank_files(directory / layout.LLM, self.config, rank)
        check_weights(files, self.config)
        check_caches(directory / layout.LLM, self.config)
        check_memory(self.config, str(description.target["device"]))
        self.session = Session(self.config, directory / layout.LLM, files, description.target)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, check: bool = True, processor: Processor | None = None
    ) -> Engine:
        """Load an engine directory; compiles nothing.

        Loading an engine executes code: its packages are shared libraries. So its files are first checked against
        the manifest that ``mmbuild apply`` wrote; a warning is issued if that lists no digests.

        An engine with several ranks must be loaded by a program under mpirun; the call returns only in rank 0
        (``backends/torch/rank_worker.py``).

        Args:
            path: The engine directory.
            check: False skips the check, for directories that were edited on purpose.
            processor: The engine's processor if it is loaded already; not for engines with several ranks.

        Raises:
            LayoutError: The directory is not an engine.
            ContentsError: Its files do not match the manifest (MM760, MM761, MM763).
            EngineError: It is for another machine or torch version, or damaged.
            RankError: The number of ranks is wrong.
        """
        directory = Path(path)
        description = layout.read(directory)
        if description.backend != "torch":
            raise EngineError(
                f"`{directory}` has backend {description.backend}, but Engine loads only engines of backend torch",
                code="MM764",
                hint="ask it with `mmbuild run`, which uses that backend",
            )
        layout.require_current(directory, description)
        if description.llm["tensor_parallel"] > 1:
            from mmbuild.backends.torch.rank_worker import load_distributed

            return load_distributed(directory, description, check=check)
        if check:
            contents.require(directory)
        return cls(directory, description, processor=processor)

    def prepare(self) -> None:
        """On CUDA, do now what the first calls would wait for. No row of the session may hold a sequence that goes
        on."""
        self.visual.prepare()
        self.session.prepare()

    @property
    def dtype(self) -> str:
        """Number format of what is not quantized."""
        return self.config.dtype

    @property
    def quant_algo(self) -> str | None:
        """Name of the quantization; None if there is none."""
        return self.config.quant_algo

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return str(self.session.device)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images, pixels."""
        return self.visual.config.image_size

    @property
    def max_output_len(self) -> int:
        """Most tokens of an answer."""
        return self.config.max_output_len

    def compare(self, request: Request, reference: Continuation, max_new_tokens: int) -> Comparison:
        """Answer ``request`` greedily and compare with ``reference``: :func:`.parity.compare`."""
        from mmbuild.backends.torch.parity import compare

        stopping = dataclasses.replace(self.stopping(max_new_tokens), repetition=None)
        return compare(self, request, reference, stopping)

    def generate(
        self,
        images: Sequence[Image | Sequence[Image]],
        prompts: Sequence[str | None],
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        beams: Beams | None = None,
        ignore_generation_config: bool = False,
    ) -> list[Answer]:
        """Answer one batch: ``prompts[i]`` about ``images[i]`` (one image, several, or an empty list).

        Args:
            images: Paths, PIL images or uint8 arrays [H, W, 3].
            prompts: Plain questions, to which the chat template is applied; a prompt that contains the image token
                is used unchanged. None if the model takes no text (Nougat).
            max_new_tokens: Default and limit: the engine's max_output_len.
            sampling: Default: greedy.
            beams: Use beam search, up to the engine's max_beam_width.
            ignore_generation_config: As for :meth:`stopping`.

        Raises:
            EngineError: An image cannot be read, or batch or prompt exceed the engine's limits.
        """
        requests = self.encode(images, prompts)
        stopping = self.stopping(max_new_tokens, ignore_generation_config=ignore_generation_config)
        return list(self.run(requests, stopping, sampling, beams).answers)

    def stopping(
        self,
        max_new_tokens: int | None = None,
        *,
        ignore_eos: bool = False,
        ignore_generation_config: bool = False,
    ) -> Stopping:
        """Stopping criteria, with the model's generation settings.

        Args:
            max_new_tokens: Default and limit: the engine's max_output_len.
            ignore_eos: Generate ``max_new_tokens`` tokens: ignore end tokens, forced or not, stop strings and
                repetition.
            ignore_generation_config: Use only the end tokens of the model's generation settings, and the start token
                of an encoder-decoder.
        """
        limit = self.config.max_output_len if max_new_tokens is None else max_new_tokens
        return Stopping(
            limit,
            () if ignore_eos else self.description.eos_token_ids,
            self.processor.suppressed_token_ids,
            None if ignore_eos else self.processor.repetition,
            None if ignore_generation_config else self._rules(ignore_eos),
        )

    def _rules(self, ignore_eos: bool) -> LogitsRules | None:
        """The model's generation settings; None if they change nothing."""
        ignored = (START, *(("forced_eos_token_id", "stop_strings") if ignore_eos else ()))
        settings = self.description.generation_settings
        fields = {name: value for name, value in settings.items() if name not in ignored}
        if not fields:
            return None
        traits = family(self.description.family).TRAITS
        return LogitsRules(
            fields,
            "decoder ids" if traits.encoder_decoder else traits.generates_from,
            self.config.vocab_size,
            self.description.image_token_id,
            self.config.llm.decoder_start_token_id,
            self.processor.tokenizer,
        )

    def encode(
        self, images: Sequence[Image | Sequence[Image]], prompts: Sequence[str | None]
    ) -> list[Request]:
        """Tokenize prompts and preprocess their images.

        Raises:
            EngineError: The numbers of prompts and images differ, or an image cannot be read.
        """
        require_unicode(prompts)
        if len(images) != len(prompts):
            raise EngineError(
                f"{len(prompts)} prompts and {len(images)} images are given",
                code="MM518",
                hint="pass one image, or one list of images, for each prompt",
            )
        requests = []
        for own, prompt in zip(images, prompts, strict=True):
            pictures = list(own) if isinstance(own, (list, tuple)) else [own]
            requests.append(encode(self.processor, prompt, pictures))
        return requests

    def inputs(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """Inputs of :meth:`Session.prefill`: prompts, and the prompt table or the features of each sequence."""
        config = self.config
        if config.cross_len and config.encoder is None:
            return self._own_features(requests)
        return self.prompt_table(requests)

    def _own_features(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        for number, request in enumerate(requests, start=1):
            if request.pixels.shape[0] != 1:
                raise EngineError(
                    f"prompt {number} has {request.pixels.shape[0]} images, but the model reads one page at a time",
                    code="MM519",
                    hint="pass one image per answer",
                )
        features = self._features(requests)
        assert features is not None
        return [list(request.ids) for request in requests], features

    def prompt_table(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """Fill the prompt table with the batch's visual features and replace placeholders by row ids.

        Returns:
            Token ids per prompt with placeholder i replaced by ``vocab_size + row``, and the table
            [max_multimodal_len, hidden].

        Raises:
            EngineError: MM519, a prompt has a different number of placeholders than of features; MM524, a token is
                outside the vocabulary.
        """
        table = self.session.empty_prompt_table()
        row, prompts = 0, []
        features = self._features(requests)
        for number, request in enumerate(requests, start=1):
            self._require_vocabulary(number, request)
            count = request.pixels.shape[0] * self.visual.config.num_visual_features
            placeholders = sum(token == self.description.image_token_id for token in request.ids)
            if placeholders != count or row + count > table.shape[0]:
                raise EngineError(
                    f"prompt {number} has {placeholders} image placeholders, its images fill {count} rows, "
                    f"and the prompt table has {table.shape[0] - row} rows left",
                    code="MM519",
                    hint="use one image token per image; max_images_per_prompt in the recipe limits their number",
                )
            rows = iter(range(row, row + count))
            prompts.append(
                [
                    self.config.vocab_size + next(rows) if token == self.description.image_token_id else token
                    for token in request.ids
                ]
            )
            row += count
        if features is not None:
            table[:row] = features.flatten(0, 1)
        return prompts, table

    def _require_vocabulary(self, number: int, request: Request) -> None:
        """Check that text contains no ids from ``vocab_size`` on, which are rows of the prompt table."""
        size, image = self.config.vocab_size, self.description.image_token_id
        beyond = next((token for token in request.ids if token != image and not 0 <= token < size), None)
        if beyond is not None:
            rank0 = getattr(self, "processor", None)  # other ranks have none; rank 0 reports the error
            text = rank0.tokenizer.convert_ids_to_tokens(beyond) if rank0 and beyond >= 0 else None
            raise EngineError(
                f"prompt {number} has the token {beyond}{f' (`{text}`)' if text else ''}, "
                f"but the model's vocabulary ends at {size - 1}",
                code="MM524",
                hint="the tokenizer has more tokens than the model has embeddings: use the same revision of both, "
                "or remove the token from the prompt",
            )

    def _features(self, requests: Sequence[Request]) -> Tensor | None:
        pixels = [request.pixels for request in requests if request.pixels.numel()]
        return self.visual(torch.cat(pixels)) if pixels else None

    def run(
        self,
        requests: Sequence[Request],
        stopping: Stopping,
        sampling: Sampling | None = None,
        beams: Beams | None = None,
    ) -> Generation:
        """Answer one encoded batch and measure times; raises as :meth:`generate`."""
        check_count(len(requests), self.config.max_batch_size)
        clock = [self._now()]
        prompts, visual = self.inputs(requests)
        clock.append(self._now())

        def tick() -> None:
            if len(clock) == 2:
                clock.append(self._now())

        if beams is not None and beams.width > 1:
            sequences, steps = search(self.session, prompts, visual, stopping, beams, tick)
        else:
            sequences, steps = self._greedy(prompts, visual, stopping, sampling, tick)
        tick()
        clock.append(self._now())
        visual_seconds, prefill_seconds, decode_seconds = (
            after - before for before, after in pairwise(clock)
        )
        answers = tuple(Answer(self.text(ids), tuple(ids)) for ids in sequences)
        profile = Profile(
            visual_seconds=visual_seconds,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            prompt_tokens=sum(map(len, prompts)),
            new_tokens=sum(map(len, sequences)),
            # The first tokens come from prefill; the step that generates the last end token counts.
            steps=min(steps, stopping.max_new_tokens - 1),
            peak_bytes=self._peak_bytes(),
        )
        return Generation(answers, profile)

    def _greedy(
        self,
        prompts: Sequence[Sequence[int]],
        visual: Tensor,
        stopping: Stopping,
        sampling: Sampling | None,
        tick: Callable[[], object],
    ) -> tuple[list[list[int]], int]:
        """Decode token by token, greedily or by sampling; returns tokens per sequence, and the number of steps."""
        largest: list[list[float]] = [[] for _ in prompts] if stopping.repetition else []
        steps: list[list[int | None]] = []
        for step in stream(self.session, prompts, visual, stopping, sampling, largest):
            tick()
            steps.append(step)
        sequences = collect(iter(steps), len(prompts))
        if stopping.repetition is not None:
            sequences = trim_repetition(sequences, largest, stopping.repetition)
        return sequences, len(steps)

    def stream_text(
        self, request: Request, stopping: Stopping, sampling: Sampling | None = None
    ) -> Iterator[str]:
        """Yield one answer in pieces as its tokens are generated."""
        prompts, visual = self.inputs([request])
        text = TextStream(self.decoded, unsettled=self.unsettled_characters)
        for (token,) in stream(self.session, prompts, visual, stopping, sampling):
            assert token is not None  # the stream ends with its only sequence
            yield text.add(token)
        yield text.finish()

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids to text without special tokens, and without white space at its ends."""
        return self.decoded(ids).strip()

    def decoded(self, ids: Sequence[int]) -> str:
        """Decode token ids to text without special tokens."""
        return text_of(self.processor.tokenizer, ids)

    @property
    def unsettled_characters(self) -> int:
        """Number of characters at the end of a text that later tokens may change."""
        return unsettled_characters(self.processor.tokenizer)

    def _now(self) -> float:
        if self.session.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _peak_bytes(self) -> int:
        if self.session.device == "cuda":
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def describe(self) -> dict[str, object]:
        """``engine.json`` as plain data."""
        return dataclasses.asdict(self.description)


def _with_start(config: EngineConfig, description: layout.Description) -> EngineConfig:
    """Return ``config`` with the start token from the model's generation settings."""
    start = description.generation_settings.get(START)
    if start is None or config.llm.decoder_start_token_id is None:
        return config
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, decoder_start_token_id=start))
