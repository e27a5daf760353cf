"""The whole model in the loop: pixels through tower and projector into the LLM, whose linear layers are measured.

The model is transformers', as `verify` runs it: the same features, prompts and positions that the engine will see.
Only the decoder's layers are quantized; embeddings, head, tower and projector stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmbuild.calibration import drawn, optimizer
from mmbuild.calibration.data import CalibrationError, Sample
from mmbuild.calibration.optimizer import Observed
from mmbuild.checkpoint.progress import Progress, silent
from mmbuild.engine.config import EngineError
from mmbuild.engine.processor import Processor, Request, encode
from mmbuild.engine.reference import continue_greedily, load_reference

# Where the decoder lies in the reference of each family; names below it are those of the checkpoint tables.
DECODERS: Mapping[str, str] = {
    "llava": "model.language_model",
    "vila": "llm.model",
    "blip2-opt": "language_model.model.decoder",
}


def sampled(processor: Processor, samples: Sequence[Sample]) -> Iterator[Request]:
    """Requests of samples, answers appended to prompts.

    Raises:
        CalibrationError: MM460, a picture cannot be read or does not go with its prompt.
    """
    for sample in samples:
        pictures = [] if sample.image is None else [sample.image]
        try:
            request = encode(processor, sample.prompt, pictures)
        except EngineError as error:
            raise CalibrationError(
                f"calibration sample of line {sample.line}: {error.message}",
                code="MM460",
                hint="Replace the picture, or remove the line from the calibration data",
            ) from error
        yield _answered(processor, request, sample.answer)


def _answered(processor: Processor, request: Request, answer: str | None) -> Request:
    if answer is None:
        return request
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return replace(request, ids=(*request.ids, *ids))


def generated(
    processor: Processor, size: tuple[int, int], prompts: Sequence[str], count: int, seed: int
) -> Iterator[Request]:
    """Requests of pictures that are drawn for the purpose (:mod:`mmbuild.calibration.drawn`)."""
    for picture, prompt in drawn.questions(size, prompts, count, seed):
        yield encode(processor, prompt, [picture])


def calibrate(
    sources: Mapping[str, Path],
    family: str,
    requests: Sequence[Request],
    *,
    algorithm: str,
    group_size: int | None,
    dtype: str,
    device: str,
    progress: Progress = silent,
) -> dict[str, Observed]:
    """Fit the decoder's linear layers on ``requests``.

    Args:
        sources: Model directories, ``model`` and where there is one ``vision``.
        family: A key of :data:`DECODERS`.
        requests: What the model is shown, at least one.
        algorithm: ``int4_awq``, ``smoothquant`` or ``fp8``.
        group_size: For ``int4_awq``.
        dtype: That the model runs in.
        device: ``cpu`` or ``cuda``.
        progress: Told the sample and the share done of a pass.

    Returns:
        By the decoder's own names: ``layers.0.self_attn.q_proj``.

    Raises:
        CalibrationError: MM461, a layer could not be fitted; MM462, Model Optimizer is missing; MM463, the GPU's
            memory did not suffice.
        EngineError: MM563, transformers cannot load the model.
    """
    try:
        progress("load the model", None)
        reference = load_reference(family, sources, dtype, device)
        linears = decoder_linears(reference, family)
        forward = _Passes(reference, requests, progress)
        return optimizer.fit(linears, algorithm, group_size, forward)
    except torch.OutOfMemoryError as error:
        raise CalibrationError(
            f"calibration with {len(requests)} samples does not fit into the GPU's memory",
            code="MM463",
            hint="Use a GPU with more memory, shorter samples, or a 16-bit engine.dtype",
        ) from error


def decoder_linears(reference: nn.Module, family: str) -> dict[str, nn.Linear]:
    """The linear layers of the decoder's layers, by their names below the decoder."""
    decoder: Any = reference.get_submodule(DECODERS[family])
    return {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.")
    }


class _Passes:
    """All requests through the model, once for each call."""

    def __init__(self, reference: Any, requests: Sequence[Request], progress: Progress) -> None:
        self.reference, self.requests, self.progress, self.number = reference, requests, progress, 0

    def __call__(self) -> None:
        self.number += 1
        for done, request in enumerate(self.requests, start=1):
            continue_greedily(self.reference, request, 1)
            self.progress(
                f"pass {self.number}, sample {done} of {len(self.requests)}", done / len(self.requests)
            )
