"""A loaded engine directory: pictures and prompts in, answers out."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

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
from mmbuild.backends.torch.session import Session
from mmbuild.backends.torch.visual_loading import load_visual
from mmbuild.backends.torch.weights import check_caches, check_memory, check_weights
from mmbuild.models.errors import EngineError
from mmbuild.models.families import family
from mmbuild.models.generation_settings import START
from mmbuild.models.processor import Image, Request, encode, load_processor
from mmbuild.models.prompts import require_unicode


class Engine:
    """An engine of the torch backend.

    >>> engine = Engine.load("build/llava-shapes-int4")
    >>> [answer] = engine.generate(images=["a.png"], prompts=["how many shapes ?"])
    """

    def __init__(self, directory: Path, description: layout.Description, rank: int = 0) -> None:
        """Use :meth:`load`; ``rank`` says whose weights these are.

        Only rank 0 has a processor: the others get requests that are encoded, and do without transformers.
        """
        self.directory = directory
        self.description = description
        self.config = _with_start(from_json(description.llm), description)
        aot_package.check_target(description.target, description.toolchain["torch"])
        if rank == 0:
            self.processor = load_processor(directory / layout.PROCESSOR, description.family)
        self.visual = load_visual(directory / layout.VISUAL, description.target)
        files = weights.rank_files(directory / layout.LLM, self.config, rank)
        check_weights(files, self.config)
        check_caches(directory / layout.LLM, self.config)
        check_memory(self.config, str(description.target["device"]))
        self.session = Session(self.config, directory / layout.LLM, files, description.target)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, check: bool = True) -> Engine:
        """Load an engine directory; compiles nothing.

        Loading an engine executes it: its packages are shared libraries. So its files are first compared with the
        manifest that ``mmbuild apply`` wrote; a warning says where that lists no digests.

        An engine of several ranks is loaded by a program that mpirun runs; only rank 0 comes back from here
        (``backends/torch/distributed/roles.py``).

        Args:
            path: The engine directory.
            check: False loads the directory as it is: what somebody edited on purpose.

        Raises:
            LayoutError: The directory is not an engine.
            ContentsError: It does not hold what was built (MM760, MM761, MM763).
            EngineError: It is for another machine or torch, or damaged.
            RankError: Another number of ranks than it is split over.
        """
        directory = Path(path)
        description = layout.read(directory)
        if description.backend != "torch":
            raise EngineError(
                f"`{directory}` is of backend {description.backend}, and Engine loads engines of backend torch",
                code="MM764",
                hint="`mmbuild run` asks it through TensorRT-LLM's runner",
            )
        if description.llm["tensor_parallel"] > 1:
            from mmbuild.backends.torch.distributed.roles import load_distributed

            return load_distributed(directory, description, check=check)
        if check:
            contents.require(directory)
        return cls(directory, description)

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
        """Answer one batch: ``prompts[i]`` about ``images[i]`` (a picture or several, or an empty list).

        Args:
            images: Paths, PIL images or uint8 arrays [H, W, 3].
            prompts: Plain questions, put into the model's chat form; a prompt that has the image token
                itself is taken as it is. None where the model takes no question (Nougat).
            max_new_tokens: Default and limit: the engine's max_output_len.
            sampling: Greedy when left out.
            beams: Beam search instead, up to the engine's max_beam_width.
            ignore_generation_config: As for :meth:`stopping`.

        Raises:
            EngineError: A picture cannot be read, or batch or prompt are larger than the engine.
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
        """When answers end, and what the model's generation settings do to them.

        Args:
            max_new_tokens: Default and limit: the engine's max_output_len.
            ignore_eos: Nothing ends an answer before ``max_new_tokens``: no end token, forced or not, no stop string
                and no repetition.
            ignore_generation_config: Of the model's generation settings only its end tokens count, and the token
                that begins the answers of an encoder-decoder.
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
        """The model's generation settings; None where they change nothing."""
        left_out = (START, *(("forced_eos_token_id", "stop_strings") if ignore_eos else ()))
        settings = self.description.generation_settings
        fields = {name: value for name, value in settings.items() if name not in left_out}
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
        """Tokenize prompts and preprocess their pictures.

        Raises:
            EngineError: The numbers of prompts and images differ, or a picture cannot be read.
        """
        require_unicode(prompts)
        if len(images) != len(prompts):
            raise EngineError(
                f"{len(prompts)} prompts and {len(images)} images are given",
                code="MM518",
                hint="Give one image, or one list of images, for each prompt",
            )
        requests = []
        for own, prompt in zip(images, prompts, strict=True):
            pictures = list(own) if isinstance(own, (list, tuple)) else [own]
            requests.append(encode(self.processor, prompt, pictures))
        return requests

    def inputs(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """What :meth:`Session.prefill` takes: prompts, and the prompt table or each sequence's features."""
        config = self.config
        if config.cross_len and config.encoder is None:
            return self._own_features(requests)
        return self.prompt_table(requests)

    def _own_features(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        for number, request in enumerate(requests, start=1):
            if request.pixels.shape[0] != 1:
                raise EngineError(
                    f"prompt {number} has {request.pixels.shape[0]} images, and the model reads one page at a time",
                    code="MM519",
                    hint="Give one image for each answer",
                )
        features = self._features(requests)
        assert features is not None
        return [list(request.ids) for request in requests], features

    def prompt_table(self, requests: Sequence[Request]) -> tuple[list[list[int]], Tensor]:
        """Fill the prompt table with the batch's visual features and point the placeholders at its rows.

        Returns:
            Token ids per prompt with placeholder i replaced by ``vocab_size + row``, and the table
            [max_multimodal_len, hidden].

        Raises:
            EngineError: MM519, the placeholders of a prompt and the features of its images differ in number; MM524,
                a token is beyond the vocabulary.
        """
        table = self.session.empty_prompt_table()
        row, prompts = 0, []
        features = self._features(requests)
        for number, request in enumerate(requests, start=1):
            self._require_vocabulary(number, request)
            count = request.pixels.shape[0] * self.visual.config.num_visual_features
            holes = sum(token == self.description.image_token_id for token in request.ids)
            if holes != count or row + count > table.shape[0]:
                raise EngineError(
                    f"prompt {number} has {holes} image placeholders, its images fill {count} rows, "
                    f"and the prompt table has {table.shape[0] - row} rows left",
                    code="MM519",
                    hint="Name each image once in the prompt; max_images_per_prompt in the recipe sets the room",
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
        """Ids from ``vocab_size`` on are rows of the prompt table, so that a text must not have any."""
        size, image = self.config.vocab_size, self.description.image_token_id
        beyond = next((token for token in request.ids if token != image and not 0 <= token < size), None)
        if beyond is not None:
            rank0 = getattr(self, "processor", None)  # the others do without, and rank 0 reports
            text = rank0.tokenizer.convert_ids_to_tokens(beyond) if rank0 and beyond >= 0 else None
            raise EngineError(
                f"prompt {number} has the token {beyond}{f' (`{text}`)' if text else ''}, "
                f"and the model's vocabulary ends at {size - 1}",
                code="MM524",
                hint="The tokenizer has more tokens than the model has embeddings: take both from one revision, "
                "or leave the token out of the prompt",
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
        """Answer one encoded batch and time it; raises as :meth:`generate`."""
        self._check_size(len(requests))
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
            # The first tokens come from prefill; what found the last sequence's end was a step too.
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
        """One token after the other, the likeliest or drawn; tokens of each sequence, and steps."""
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
        """One answer in pieces, as its tokens come."""
        prompts, visual = self.inputs([request])
        ids: list[int] = []
        message = ""
        for (token,) in stream(self.session, prompts, visual, stopping, sampling):
            assert token is not None  # a single sequence ends its stream
            ids.append(token)
            text = self.text(ids)
            # A character of several tokens is held back until it is whole.
            if text.startswith(message) and not text.endswith("\ufffd"):
                yield text[len(message) :]
                message = text
        # What was held back to the end is as whole as it will be.
        whole = self.text(ids)
        if whole.startswith(message) and whole != message:
            yield whole[len(message) :]

    def text(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        decoded: str = self.processor.tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded.strip()

    def _check_size(self, batch: int) -> None:
        if not 1 <= batch <= self.config.max_batch_size:
            raise EngineError(
                f"the batch has {batch} prompts, and the engine is built for 1 to {self.config.max_batch_size}",
                code="MM511",
                hint="Ask in smaller batches, or raise max_batch_size in the recipe",
            )

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
    """``config``, with the token that the model's generation settings begin answers with."""
    start = description.generation_settings.get(START)
    if start is None or config.llm.decoder_start_token_id is None:
        return config
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, decoder_start_token_id=start))
