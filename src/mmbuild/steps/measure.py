"""Step ``measure``: compares an engine's answers with those of transformers on the same weights.

The reference is transformers alone: its processor and chat template on the same question and image, and its
``generate`` with the model's generation config, in the engine's number format, unquantized, on the same device.
The only error is different input: unless both sides get the same token ids and pixels, comparing answers is
pointless. An unquantized engine of the same recipe returns the same tokens up to rounding (``verify`` checks that).
All numbers cover the tokens of the reference's answers up to and including the end token. The result contains no
times. ``verify`` evaluates it, so changed gates need no new measurement.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import Amount, Progress, silent
from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation import thumbnails
from mmbuild.models.validation.prompts import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from torch import Tensor

    from mmbuild.backends.base import Answering
    from mmbuild.backends.comparison import Comparison
    from mmbuild.models.families.processor import Request
    from mmbuild.models.images import Picture


_SHOWN = 6


def _ids_differ(ours: Sequence[int], theirs: Sequence[int], tokenizer: Any) -> str | None:
    """Describe the first difference between two prompts' token ids; None if they are equal."""
    if tuple(ours) == tuple(theirs):
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    start = next((at for at, (left, right) in pairs if left != right), min(len(ours), len(theirs)))
    return (
        f"the prompt's {len(ours)} tokens differ from the {len(theirs)} of transformers: from token {start + 1} on "
        f"{_excerpt(ours, start, tokenizer)} instead of {_excerpt(theirs, start, tokenizer)}"
    )


def _excerpt(ids: Sequence[int], start: int, tokenizer: Any) -> str:
    tokens = list(ids[start : start + _SHOWN])
    if not tokens:
        return "nothing"
    text = tokenizer.decode([token for token in tokens if 0 <= token < len(tokenizer)])
    return f"{tokens} (`{text}`)"


def _pixels_differ(ours: Tensor, theirs: Tensor) -> str | None:
    """Describe how two float32 tensors [images, channels, height, width] differ; None if they are equal."""
    if ours.shape != theirs.shape:
        return f"the pixels have shape {list(ours.shape)}, but transformers' have {list(theirs.shape)}"
    errors = (ours.float() - theirs.float()).abs()
    if not errors.numel() or not bool((errors > 0).any()):
        return None
    share = float((errors > 0).float().mean())
    return f"{share:.1%} of the pixel values differ from transformers', by up to {float(errors.max()):.4g}"


MEASURES = "measures.json"
PICTURES = "pictures"


def run(context: StepContext) -> None:
    """``params``: ``{"prompts", "max_new_tokens"}``; inputs ``engine``, ``model`` and optionally ``vision``;
    locators: images. Writes ``measures.json`` and thumbnails ``pictures/<number>.png``.

    Raises:
        EngineError: The engine cannot be loaded, or its logits are not numbers.
        InputError: MM597, MM598: engine and reference get different input.
        RankError: A rank failed.
    """
    from mmbuild.backends.engine_dir import description
    from mmbuild.backends.torch.distributed import launch

    ranks = description.read(context.inputs["engine"]).llm["tensor_parallel"]
    if ranks == 1:
        check(context)
        return
    context.progress(f"comparing in {ranks} processes", None)  # which report nothing until they have ended
    plain = {
        "params": dict(context.params),
        "inputs": {name: str(path) for name, path in context.inputs.items()},
        "locators": dict(context.locators),
        "out": str(context.out),
    }
    launch.run_on_ranks(ranks, "mmbuild.steps.measure:check_in_rank", plain)


def check_in_rank(
    params: Mapping[str, Any], inputs: Mapping[str, str], locators: Mapping[str, str], out: str
) -> None:
    """:func:`check` in one of several ranks."""
    paths = {name: Path(path) for name, path in inputs.items()}
    check(StepContext(params=params, inputs=paths, locators=locators, out=Path(out)))


def check(context: StepContext) -> None:
    """Run the step in this process; raises as :func:`run`."""
    from mmbuild.backends.table import load_engine

    # Sort `image2` before `image10`.
    named = sorted(context.locators.items(), key=lambda item: (len(item[0]), item[0]))
    context.progress("loading the engine", None)
    engine = load_engine(context.inputs["engine"])  # the store has verified it
    images = open_images([path for _, path in named], engine)
    measures = measure(
        engine,
        context.inputs["engine"],
        {name: path for name, path in context.inputs.items() if name != "engine"},
        prompts=questions(engine, context.params["prompts"]),
        images=images,
        max_new_tokens=context.params["max_new_tokens"],
        progress=context.progress,
    )
    text = json.dumps(measures, indent=2, sort_keys=True)
    (context.out / MEASURES).write_text(text + "\n", encoding="utf-8")
    thumbnails.save(images, context.out / PICTURES)


def open_images(images: Sequence[Any], engine: Answering) -> list[Picture]:
    """Open ``images``, or two generated ones if the list is empty.

    Raises:
        EngineError: MM517, an image cannot be read.
    """
    from mmbuild.models.images import open_picture

    return [open_picture(image) for image in images or generated_pictures(engine.image_size)]


def measure(
    engine: Answering,
    directory: Path,
    sources: Mapping[str, Path],
    *,
    prompts: Sequence[str | None],
    images: Sequence[Any],
    max_new_tokens: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run every prompt with every image through engine and reference.

    Args:
        engine: A loaded engine.
        directory: Its directory.
        sources: Model directories, ``model`` and optionally ``vision``.
        prompts: Questions, or complete prompts; None if the model takes no text.
        images: Anything that :func:`mmbuild.models.images.open_picture` takes.
        max_new_tokens: Limit of tokens per answer.
        progress: Called with each question and the number of questions that are done.

    Returns:
        Plain data: the reference, what the engine is (:func:`mmbuild.backends.engine_dir.summary.summarize`), a
        summary, and one entry per question with both answers.

    Raises:
        InputError: MM597, the token ids differ from transformers'; MM598, the pixels do.
        EngineError: MM591, logits of engine or reference are not numbers.
    """
    import transformers

    from mmbuild.backends.engine_dir.summary import summarize
    from mmbuild.models.families.reference import (
        ignore_generation_config,
        load_inputs,
        load_reference,
        open_for_reference,
    )

    progress("loading the model of transformers to compare with", None)
    reference = load_reference(engine.description.family, sources, engine.dtype, engine.device)
    if not engine.description.obeys_generation_config:
        ignore_generation_config(reference)
    prepare = load_inputs(engine.description.family, sources, reference)
    images = open_images(images, engine)
    questions = [(number, image, prompt) for number, image in enumerate(images, 1) for prompt in prompts]
    entries = []
    for done, (number, image, prompt) in enumerate(questions):
        progress(f"image {number}: {prompt or 'the page'}", Amount(done, len(questions), "questions"))
        with _naming_question(number, prompt):
            (request,) = engine.encode([image], [prompt])
            theirs = prepare(prompt, [open_for_reference(image)])
            _require_equal_input(engine, request, theirs)
            entries.append(_question(engine, reference, (number, prompt), theirs, max_new_tokens))
    progress("compared", Amount(len(entries), len(questions), "questions"))
    program = {
        "program": "transformers",
        "version": transformers.__version__,
        "dtype": engine.dtype,
        "device": engine.device,
    }
    return {
        "reference": program,
        "description": summarize(directory, engine.description),
        "pictures": [thumbnails.digest(image) for image in images],
        "conversions": {
            str(number): image.conversion for number, image in enumerate(images, 1) if image.conversion
        },
        "max_new_tokens": max_new_tokens,
        "summary": _summarize(engine, entries),
        "questions": entries,
    }


def _require_equal_input(engine: Answering, ours: Request, theirs: Request) -> None:
    """Check that engine and reference get the same input.

    Args:
        engine: Its tokenizer decodes the tokens for the message.
        ours: Input of the engine.
        theirs: Input of transformers.

    Raises:
        InputError: MM597, the token ids differ; MM598, the pixels differ.
    """
    problem = _ids_differ(ours.ids, theirs.ids, engine.processor.tokenizer)
    if problem is not None:
        raise InputError(problem, code="MM597", hint=_REPORT_IT)
    problem = _pixels_differ(ours.pixels, theirs.pixels)
    if problem is not None:
        raise InputError(problem, code="MM598", hint=_REPORT_IT)


class InputError(MmbuildError):
    """Engine and transformers get different input."""


_REPORT_IT = (
    "answers to different input cannot be compared; report it with the model's small files and the image"
)


@contextmanager
def _naming_question(image: int, prompt: str | None) -> Iterator[None]:
    """Prefix errors with the image and the prompt that caused them."""
    try:
        yield
    except MmbuildError as error:
        from mmbuild.models.families.processor import first_line

        where = f"image {image}, prompt `{first_line(prompt or '', 60)}`"
        raise type(error)(f"{where}: {error.message}", code=error.code, hint=error.hint) from error.__cause__


def questions(engine: Answering, prompts: Sequence[str]) -> Sequence[str | None]:
    """The recipe's prompts, else the default ones; ``(None,)`` if the model takes no text."""
    if not engine.processor.takes_text:
        return (None,)
    return tuple(prompts) or DEFAULT_PROMPTS


def _question(
    engine: Answering, reference: Any, question: tuple[int, str | None], request: Request, max_new_tokens: int
) -> dict[str, Any]:
    """Compare both answers to one question (number of the image, prompt)."""
    from mmbuild.backends.comparison import is_tie
    from mmbuild.models.families.reference import answer_greedily

    processor = engine.processor
    answer = answer_greedily(
        reference, request, max_new_tokens, processor.suppressed_token_ids, processor.tokenizer
    )
    compared = engine.compare(request, answer, max_new_tokens)
    difference = compared.difference
    return {
        "image": question[0],
        "prompt": question[1],
        "max_new_tokens": max_new_tokens,
        "answers": {
            "reference": engine.text(compared.reference_tokens),
            "engine": engine.text(compared.engine_tokens),
        },
        "tie": None if difference is None else is_tie(difference, engine.dtype),
        "context": None if difference is None else _context(engine, compared),
        **asdict(compared),
    }


_BEFORE = 12


def _context(engine: Answering, compared: Comparison) -> dict[str, str | None]:
    """The text before the first difference, and the next token of each side; None if its answer had ended."""
    start = compared.equal_prefix
    tokenizer, difference = engine.processor.tokenizer, compared.difference
    assert difference is not None
    before = list(compared.reference_tokens[max(0, start - _BEFORE) : start])
    sides = {"reference": difference.reference_token, "engine": difference.engine_token}
    return {
        "before": tokenizer.decode(before),
        **{side: None if token is None else tokenizer.decode([token]) for side, token in sides.items()},
    }


def _summarize(engine: Answering, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report's summary. Means are over all tokens of the reference's answers, end tokens included."""
    count = len(entries)
    tokens = [len(entry["reference_tokens"]) for entry in entries]
    equal = [entry["answers"]["engine"] == entry["answers"]["reference"] for entry in entries]
    return {
        "dtype": engine.dtype,
        "quant_algo": engine.quant_algo,
        "questions": count,
        "tokens": sum(tokens),
        "equal_tokens": sum(entry["equal_prefix"] for entry in entries),
        "identical": sum(entry["difference"] is None for entry in entries),
        "ties": sum(entry["tie"] is True for entry in entries),
        "answer_agreement": sum(equal) / count,
        "top1_agreement": _over_tokens(entries, tokens, "top1_agreement"),
        "mean_kl": _over_tokens(entries, tokens, "mean_kl"),
        "max_kl": max(entry["max_kl"] for entry in entries),
    }


def _over_tokens(entries: Sequence[Mapping[str, Any]], tokens: Sequence[int], name: str) -> float:
    """Mean over questions, weighted by their number of tokens."""
    total = sum(entry[name] * count for entry, count in zip(entries, tokens, strict=True))
    return float(total / sum(tokens))


def generated_pictures(size: tuple[int, int]) -> list[Any]:
    """Two fixed images of ``size`` (height, width): a colour gradient with a disc, and stripes."""
    import numpy as np
    from PIL import Image

    height, width = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    disc = (x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.05
    gradient = np.stack([x, y, 1 - x], axis=-1)
    first = np.where(disc[..., None], [1.0, 0.9, 0.1], gradient)
    stripes = (np.floor(x * 8) + np.floor(y * 3)) % 2
    second = np.stack([stripes, 0.5 * stripes, 1 - stripes], axis=-1)
    return [Image.fromarray((picture * 255).astype(np.uint8)) for picture in (first, second)]
