"""A checkpoint as transformers runs it, quantized parts with compressed-tensors: for ``run``, ``measure`` and
``verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmbuild.backends.comparison import Comparison, compared
from mmbuild.base.optional_packages import require
from mmbuild.base.silence import quiet
from mmbuild.models.families.processor import Request, load_processor
from mmbuild.models.families.reference import (
    Continuation,
    answer_greedily,
    arguments,
    ignore_generation_config,
    load_inputs,
    load_reference,
    open_for_reference,
)
from mmbuild.models.families.shared.hugging_face import text_of
from mmbuild.models.images import open_picture

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description


class HfEngine:
    """See :class:`mmbuild.backends.base.Answering`."""

    def __init__(self, directory: Path, description: Description) -> None:
        """Load the checkpoint in ``directory`` and unpack its layers.

        Raises:
            MissingPackageError: MM230, the checkpoint is quantized and compressed-tensors is not installed.
            EngineError: MM563, transformers cannot load it; MM516, its processor cannot be read.
        """
        llm = description.llm
        if llm["quant_algo"] is not None:
            require("compressed_tensors", needed_by="loading a quantized checkpoint", extra="hf")
        self.description = description
        self.dtype: str = llm["dtype"]
        self.quant_algo: str | None = llm["quant_algo"]
        self.max_output_len: int = llm["max_output_len"]
        height, width = description.visual["image_size"]
        self.image_size = (int(height), int(width))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.processor = load_processor(directory, description.family)
        sources = {"model": directory}
        with quiet(native=True):  # progress bars of both libraries
            self.model = load_reference(description.family, sources, self.dtype, self.device)
            if self.quant_algo is not None:
                # Otherwise the first answer would do it, with another progress bar.
                self.model.hf_quantizer.compressor.decompress_model(model=self.model)
        self._inputs = load_inputs(description.family, sources, self.model)
        if not description.obeys_generation_config:
            ignore_generation_config(self.model)

    def encode(self, images: Sequence[Any], prompts: Sequence[str | None]) -> list[Request]:
        """See :class:`mmbuild.backends.base.Answering`; with the checkpoint's own processor."""
        return [
            self._inputs(prompt, [open_for_reference(open_picture(image)) for image in _listed(own)])
            for own, prompt in zip(images, prompts, strict=True)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """See :class:`mmbuild.backends.base.Answering`."""
        return text_of(self.processor.tokenizer, ids).strip()

    def answer(self, request: Request, max_new_tokens: int) -> Continuation:
        """The greedy answer to ``request``.

        Raises:
            EngineError: MM599, transformers fails.
        """
        processor = self.processor
        return answer_greedily(
            self.model, request, max_new_tokens, processor.suppressed_token_ids, processor.tokenizer
        )

    def compare(self, request: Request, reference: Continuation, max_new_tokens: int) -> Comparison:
        """See :class:`mmbuild.backends.base.Answering`."""
        free = self.answer(request, max_new_tokens).tokens
        return compared(reference, free, self._teacher_forced(request, reference.tokens))

    def _teacher_forced(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """Logits at each of ``tokens``, float32 [N, vocab]: token by token, like the reference's own."""
        with torch.inference_mode():
            result = self.model.generate(
                **arguments(self.model, request),
                do_sample=False,
                num_beams=1,
                max_new_tokens=len(tokens),
                logits_processor=[_Forced(tokens)],
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        return torch.cat(result.logits).float().cpu()


class _Forced:
    """A logits processor of transformers that chooses given tokens, whatever the logits are."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.step = tokens, 0

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[self.step]] = 0
        self.step += 1
        return forced


def _listed(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]
