"""Calibration loop: runs images through tower, projector and LLM, and measures the LLM's linear layers.

The model is the transformers model that `verify` uses, with the same features, prompts and positions as in the
engine. Only the decoder's layers are quantized; embeddings, head, tower and projector are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from mmbuild.backends.torch.calibration import fit_scales, offload
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.base.progress import Amount, Progress, silent
from mmbuild.models.calibration_data import synthetic_images
from mmbuild.models.calibration_data.samples import CalibrationError, Sample
from mmbuild.models.errors import EngineError
from mmbuild.models.families import family as find_family
from mmbuild.models.families.processor import Processor, Request, encode
from mmbuild.models.families.reference import continue_greedily, load_reference
from mmbuild.models.families.shared.hugging_face import token_ids

Found = TypeVar("Found")
Found_co = TypeVar("Found_co", covariant=True)


class LayerFitter(Protocol[Found_co]):
    """Observes linear layers while ``forward`` runs the model."""

    def __call__(
        self, linears: Mapping[str, nn.Linear], *, forward: Callable[[], None]
    ) -> Mapping[str, Found_co]:
        """Results by the layers' names."""


def calibration_requests(
    processor: Processor, samples: Sequence[Sample], family: str, longest: int | None = None
) -> Iterator[Request]:
    """Build requests from samples, with answers appended to the prompts.

    Args:
        processor: The model's processor.
        samples: Calibration samples.
        family: The model's family.
        longest: Number of positions of the model, visual features included; None: not checked.

    Raises:
        CalibrationError: MM460, an image cannot be read or does not match its prompt, the family requires one, or
            the sample is too long.
    """
    for sample in samples:
        if sample.image is None and find_family(family).TRAITS.needs_image:
            raise _unusable(sample, f"prompts of family {family} need an image")
        pictures = [] if sample.image is None else [sample.image]
        try:
            request = _answered(processor, encode(processor, sample.prompt, pictures), sample.answer)
        except EngineError as error:
            raise _unusable(sample, error.message) from error
        # The forward pass generates one more token.
        if longest is not None and len(request.ids) >= longest:
            raise _unusable(
                sample, f"it has {len(request.ids)} tokens, but the model has {longest} positions"
            )
        yield request


def _unusable(sample: Sample, reason: str) -> CalibrationError:
    return CalibrationError(
        f"calibration sample in line {sample.line}: {reason}",
        code="MM460",
        hint="correct the line, or remove it from the calibration data",
    )


def _answered(processor: Processor, request: Request, answer: str | None) -> Request:
    if answer is None:
        return request
    ids = token_ids(processor.tokenizer, answer, add_special_tokens=False)
    return replace(request, ids=(*request.ids, *ids))


def synthetic_requests(
    processor: Processor, size: tuple[int, int], prompts: Sequence[str], count: int, seed: int
) -> Iterator[Request]:
    """Build requests with synthetic images (:mod:`mmbuild.models.calibration_data.synthetic_images`)."""
    for picture, prompt in synthetic_images.questions(size, prompts, count, seed):
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
) -> dict[str, LayerFit]:
    """Fit the decoder's linear layers on ``requests``.

    Args:
        sources: Model directories, ``model`` and optionally ``vision``.
        family: One that is calibrated (:attr:`~mmbuild.models.families.facts.Traits.decoder`).
        requests: Calibration requests, at least one.
        algorithm: ``int4_awq``, ``smoothquant`` or ``fp8``.
        group_size: For ``int4_awq``.
        dtype: Dtype of the model.
        device: ``cpu`` or ``cuda``.
        progress: Called with each pass and the number of its samples that are done.

    Returns:
        Fits by the decoder's layer names, such as ``layers.0.self_attn.q_proj``.

    Raises:
        CalibrationError: MM462, Model Optimizer is missing; and as :func:`observe`.
        EngineError: MM563, transformers cannot load the model.
    """
    fit = partial(fit_scales.fit, algorithm=algorithm, group_size=group_size)
    return observe(fit, sources, family, requests, dtype=dtype, device=device, progress=progress)


def observe(
    fit: LayerFitter[Found],
    sources: Mapping[str, Path],
    family: str,
    requests: Sequence[Request],
    *,
    dtype: str,
    device: str,
    progress: Progress = silent,
) -> dict[str, Found]:
    """Run ``fit`` on the decoder's linear layers while the whole model processes ``requests``.

    If the model does not fit into GPU memory, its layers are moved there one by one
    (:mod:`mmbuild.backends.torch.calibration.offload`).

    Args:
        fit: Called with the layers by name and ``forward``, which runs all requests through the model.
        sources: This and the other arguments as for :func:`calibrate`.

    Raises:
        CalibrationError: MM461, a layer cannot be fitted; MM463, GPU memory does not suffice.
        EngineError: MM563, transformers cannot load the model.
    """
    try:
        progress("load the model", None)
        split = device == "cuda" and _does_not_fit(sources, dtype)
        reference = load_reference(family, sources, dtype, "cpu" if split else device)
        linears, forward = decoder_linears(reference, family), _Passes(reference, requests, progress)
        offloaded = (
            layer_by_layer(reference, family, offload.on_device(device), offload.on_device("cpu"))
            if split
            else nullcontext()
        )
        with offloaded:
            return dict(fit(linears, forward=forward))
    except torch.OutOfMemoryError as error:
        raise CalibrationError(
            f"calibration with {len(requests)} samples does not fit into GPU memory",
            code="MM463",
            hint="use a GPU with more memory, shorter samples, or a 16-bit engine.dtype",
        ) from error


def _decoder(reference: nn.Module, family: str) -> Any:
    path = find_family(family).TRAITS.decoder
    assert path is not None, family  # a rule of the schema refuses the others
    return reference.get_submodule(path)


def decoder_linears(reference: nn.Module, family: str) -> dict[str, nn.Linear]:
    """The linear layers in the decoder's layers, by their names below the decoder."""
    decoder = _decoder(reference, family)
    return {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.")
    }


def _does_not_fit(sources: Mapping[str, Path], dtype: str) -> bool:
    """Whether the model does not fit into free GPU memory; logs it."""
    needed, free = offload.weights_bytes(sources, dtype), offload.free_bytes()
    split = offload.needs_offload(needed, free)
    if split:
        print(
            f"{needed / 1e9:.1f} GB of weights do not fit into {free / 1e9:.1f} GB of free GPU memory: "
            "moving the decoder's layers to the GPU one by one"
        )
    return split


def layer_by_layer(
    reference: nn.Module, family: str, there: offload.Place, home: offload.Place
) -> AbstractContextManager[None]:
    """Run ``reference`` on the device ``there``, moving each decoder layer there only for its own forward pass.

    Args:
        reference: The model, on the host.
        family: One that is calibrated (:attr:`~mmbuild.models.families.facts.Traits.decoder`).
        there: The compute device.
        home: The host.
    """
    decoder = _decoder(reference, family)
    return offload.layerwise_offload(reference, list(decoder.layers), there, home)


class _Passes:
    """Runs all requests through the model, once per call."""

    def __init__(self, reference: Any, requests: Sequence[Request], progress: Progress) -> None:
        self.reference, self.requests, self.progress, self.number = reference, requests, progress, 0

    def __call__(self) -> None:
        self.number += 1
        self.progress(f"calibrating, pass {self.number}", Amount(0, len(self.requests), "samples"))
        for done, request in enumerate(self.requests, start=1):
            continue_greedily(self.reference, request, 1)
            self.progress(f"calibrating, pass {self.number}", Amount(done, len(self.requests), "samples"))
