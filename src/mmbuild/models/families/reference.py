"""The reference for engines: transformers with the model's own weights and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mmbuild.base.errors import MmbuildError
from mmbuild.models.dtypes import DTYPES
from mmbuild.models.errors import EngineError
from mmbuild.models.families import part
from mmbuild.models.families.processor import Request, first_line
from mmbuild.models.images import Picture, open_as_saved

if TYPE_CHECKING:
    from mmbuild.models.families.transformers_inputs import Inputs


@dataclass(frozen=True, slots=True)
class Continuation:
    """Greedy tokens of one request, with their logits.

    Attributes:
        tokens: N token ids; the last one is an end token if the answer ended by itself.
        logits: Raw logits of the model, float32 [N, vocab].
        scores: Logits after the model's logits processors, float32 [N, vocab]; each token is the argmax of its row.
    """

    tokens: tuple[int, ...]
    logits: Tensor
    scores: Tensor


def load_reference(family: str, sources: Mapping[str, Path], dtype: str, device: str) -> Any:
    """Load the model with transformers, in ``dtype`` on ``device``, with its own generation config.

    Args:
        family: The family's name.
        sources: Model directories, ``{"model": ...}`` and optionally ``"vision"``.
        dtype: As in recipes.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    return part(family, "reference").load(sources, DTYPES[dtype], device)


def load_inputs(family: str, sources: Mapping[str, Path], model: Any) -> Inputs:
    """Load transformers' preprocessing of a question and its images for ``generate``.

    It shares no code with that of the engine (:func:`mmbuild.models.families.processor.encode`).

    Args:
        family: The family's name.
        sources: As :func:`load_reference`.
        model: Result of :func:`load_reference`.

    Raises:
        EngineError: MM516, the processor cannot be read; called, MM599, it fails.
    """
    inputs = cast("Inputs", part(family, "reference").load_inputs(sources, model))

    def prepare(question: str | None, pictures: Sequence[Any]) -> Request:
        try:
            return inputs(question, pictures)
        except MmbuildError:
            raise
        # Settings of a model that was never validated can fail anywhere in transformers.
        except Exception as error:
            raise EngineError(
                f"transformers cannot prepare this question: {type(error).__name__}: {first_line(error)}",
                code="MM599",
                hint="give the model directory that the engine was built from, or compare the processor's files with "
                "the model's original",
            ) from error

    return prepare


def open_for_reference(picture: Picture) -> Any:
    """Open ``picture`` with transformers: the user's file, or a PNG of it if its values were converted."""
    from transformers.image_utils import load_image

    return load_image(open_as_saved(picture))


def arguments(reference: Any, request: Request) -> dict[str, Any]:
    """Arguments of transformers' ``generate`` for a request."""
    pixels = request.pixels.to(reference.device, reference.dtype) if request.pixels.numel() else None
    images = {} if pixels is None else {"pixel_values": pixels}
    if reference.config.is_encoder_decoder and not hasattr(reference.config, "text_config"):
        return images  # the page is the whole prompt
    ids = torch.tensor([request.ids], device=reference.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}


_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def ignore_generation_config(reference: Any) -> None:
    """Remove everything but special tokens from the model's generation configs."""
    for module in reference.modules():
        settings = module.__dict__.get("generation_config")
        if settings is not None:
            module.generation_config = type(settings)(**{name: getattr(settings, name) for name in _TOKENS})


def answer_greedily(
    reference: Any,
    request: Request,
    count: int,
    suppressed: Sequence[int] = (),
    tokenizer: Any = None,
) -> Continuation:
    """Answer ``request`` greedily with the model's own settings, with at most ``count`` tokens.

    Args:
        reference: Result of :func:`load_reference`.
        request: The request.
        count: ``max_new_tokens``; everything else comes from the model's generation config.
        suppressed: Ids that the family never generates (Nougat's unknown token).
        tokenizer: transformers' tokenizer, which `generate` needs if the model sets `stop_strings`.

    Raises:
        EngineError: MM599, transformers itself fails.
    """
    try:
        return _answer(reference, request, count, suppressed, tokenizer)
    # Raised by `generate` for ids outside the vocabulary, and for settings that it cannot apply.
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(
            f"transformers cannot answer this question: {type(error).__name__}: {first_line(error)}",
            code="MM599",
            hint="compare the model's tokenizer and generation_config.json with its config.json",
        ) from error


def _answer(
    reference: Any, request: Request, count: int, suppressed: Sequence[int], tokenizer: Any = None
) -> Continuation:
    options: dict[str, Any] = {}
    if tokenizer is not None and any(settings.stop_strings for settings in _settings(reference)):
        options["tokenizer"] = tokenizer
    if suppressed:
        own = reference.generation_config.suppress_tokens or ()
        options["suppress_tokens"] = sorted({*own, *suppressed})
    if all(settings.pad_token_id is None for settings in _settings(reference)):
        options["pad_token_id"] = 0  # unused with one sequence, but transformers warns without it
    with torch.inference_mode():
        result = reference.generate(
            **arguments(reference, request),
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            max_new_tokens=count,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
            **options,
        )
    logits, scores = (torch.cat(rows).float().cpu() for rows in (result.logits, result.scores))
    return Continuation(tuple(result.sequences[0, -len(logits) :].tolist()), logits, scores)


def continue_greedily(
    reference: Any, request: Request, count: int, suppressed: Sequence[int] = ()
) -> Continuation:
    """Generate ``count`` greedy tokens: like :func:`answer_greedily`, but no token ends the answer."""
    with _endless(reference):
        return _answer(reference, request, count, suppressed)


_ENDS = ("eos_token_id", "forced_eos_token_id", "stop_strings")


@contextmanager
def _endless(reference: Any) -> Iterator[None]:
    kept = [(settings, name, getattr(settings, name)) for settings in _settings(reference) for name in _ENDS]
    for settings, name, _ in kept:
        setattr(settings, name, None)
    try:
        yield
    finally:
        for settings, name, value in kept:
            setattr(settings, name, value)


def _settings(reference: Any) -> list[Any]:
    """The generation configs of a model and its submodels."""
    modules: Callable[[], Iterator[Any]] = reference.modules
    configs = [module.__dict__.get("generation_config") for module in modules()]
    return [settings for settings in configs if settings is not None]
