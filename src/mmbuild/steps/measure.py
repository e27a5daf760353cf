"""measure: an engine's answers beside transformers' on the same weights, as numbers; nothing is judged.

What is compared with is the model itself in the engine's own number format, unquantized, run by transformers on
the same device: an unquantized engine of the same recipe gives the same tokens up to rounding (verify sees to that).
The result holds no times. verify judges it, so that other gates measure nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.checkpoint.progress import Progress, silent
from mmbuild.errors import MmbuildError
from mmbuild.quality import pictures
from mmbuild.steps.base import StepContext

if TYPE_CHECKING:
    from mmbuild.engine.compare import Comparison
    from mmbuild.engine.engine import Engine

MEASURES = "measures.json"
PICTURES = "pictures"
# Asked where a recipe names none; put into the model's chat form.
DEFAULT_PROMPTS = ("What is in the picture?", "Describe the picture in detail.")
DEFAULT_NEW_TOKENS = 32


def run(context: StepContext) -> None:
    """``params``: ``{"prompts", "max_new_tokens"}``; inputs ``engine``, ``model`` and where there is one
    ``vision``; locators: images. Leaves ``measures.json`` and ``pictures/<number>.png``, small ones.

    Raises:
        EngineError: The engine cannot be loaded, or its logits are no numbers.
        RankError: A rank of an engine of several failed.
    """
    from mmbuild.engine import layout
    from mmbuild.ranks import launch

    ranks = layout.read(context.inputs["engine"]).llm["tensor_parallel"]
    if ranks == 1:
        check(context)
        return
    plain = {
        "params": dict(context.params),
        "inputs": {name: str(path) for name, path in context.inputs.items()},
        "locators": dict(context.locators),
        "out": str(context.out),
    }
    launch.spread(ranks, "mmbuild.steps.measure:check_in_rank", plain)


def check_in_rank(
    params: Mapping[str, Any], inputs: Mapping[str, str], locators: Mapping[str, str], out: str
) -> None:
    """:func:`check` in one of several ranks."""
    paths = {name: Path(path) for name, path in inputs.items()}
    check(StepContext(params=params, inputs=paths, locators=locators, out=Path(out)))


def check(context: StepContext) -> None:
    """The step within one process; raises as :func:`run`."""
    from mmbuild.engine.engine import Engine

    # `image2` goes before `image10`.
    named = sorted(context.locators.items(), key=lambda item: (len(item[0]), item[0]))
    images: list[Any] = [Path(path) for _, path in named]
    engine = Engine.load(context.inputs["engine"])
    images = images or generated_pictures(engine.visual.config.image_size)
    found = measure(
        engine,
        {name: path for name, path in context.inputs.items() if name != "engine"},
        prompts=questions(engine, context.params["prompts"]),
        images=images,
        max_new_tokens=context.params["max_new_tokens"],
        progress=context.progress,
    )
    text = json.dumps(found, indent=2, sort_keys=True)
    (context.out / MEASURES).write_text(text + "\n", encoding="utf-8")
    pictures.save(images, context.out / PICTURES)


def measure(
    engine: Engine,
    sources: Mapping[str, Path],
    *,
    prompts: Sequence[str | None],
    images: Sequence[Any],
    max_new_tokens: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Ask engine and reference every prompt about every image.

    Returns:
        Plain data: what was compared with, a summary, and one entry per question with both answers.

    Raises:
        EngineError: MM591, logits of a side are no numbers.
    """
    import transformers

    from mmbuild.engine.compare import compare
    from mmbuild.engine.reference import continue_greedily, load_reference

    config = engine.config
    progress("load the reference", 0.0)
    reference = load_reference(engine.description.family, sources, config.dtype, engine.session.device)
    suppressed = engine.processor.suppressed_token_ids
    asked = [(number, image, prompt) for number, image in enumerate(images, 1) for prompt in prompts]
    entries = []
    for done, (number, image, prompt) in enumerate(asked):
        progress(f"image {number}: {prompt or ''}", done / len(asked))
        (request,) = engine.encode([image], [prompt])
        continuation = continue_greedily(reference, request, max_new_tokens, suppressed)
        with _naming(number, prompt):
            compared = compare(engine, request, continuation)
        entries.append(_entry(engine, number, prompt, compared))
    against = {
        "program": "transformers",
        "version": transformers.__version__,
        "dtype": config.dtype,
        "device": engine.session.device,
    }
    return {
        "reference": against,
        "pictures": [pictures.digest(image) for image in images],
        "summary": summarize(engine, entries),
        "questions": entries,
    }


@contextmanager
def _naming(image: int, prompt: str | None) -> Iterator[None]:
    """Errors of a question say which one it was."""
    try:
        yield
    except MmbuildError as error:
        from mmbuild.engine.processor import first_line

        where = f"image {image}, prompt `{first_line(prompt or '', 60)}`"
        raise type(error)(f"{where}: {error.message}", code=error.code, hint=error.hint) from error


def questions(engine: Engine, prompts: Sequence[str]) -> Sequence[str | None]:
    """What the engine is asked: the recipe's prompts, general ones, or nothing where it takes no text."""
    if not engine.processor.takes_text:
        return (None,)
    return tuple(prompts) or DEFAULT_PROMPTS


def _entry(engine: Engine, image: int, prompt: str | None, compared: Comparison) -> dict[str, Any]:
    from mmbuild.engine.compare import is_tie

    answers = {
        side: engine.text(_until_end(tokens, engine.description.eos_token_ids))
        for side, tokens in (("reference", compared.reference_tokens), ("engine", compared.engine_tokens))
    }
    tie = None if compared.difference is None else is_tie(compared.difference, engine.config.dtype)
    ends = engine.description.eos_token_ids
    # The token that ends an answer is part of it: an engine that goes on and on is not the same.
    answer = min(len(_until_end(compared.reference_tokens, ends)) + 1, len(compared.reference_tokens))
    return {
        "image": image,
        "prompt": prompt,
        "answers": answers,
        "answer_tokens": answer,
        "tie": tie,
        **asdict(compared),
    }


def _until_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])


def summarize(engine: Engine, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report's head: means over all questions."""
    count = len(entries)
    equal = [entry["answers"]["engine"] == entry["answers"]["reference"] for entry in entries]
    return {
        "dtype": engine.config.dtype,
        "quant_algo": engine.config.quant_algo,
        "questions": count,
        "tokens_each": len(entries[0]["reference_tokens"]),
        "identical": sum(entry["difference"] is None for entry in entries),
        "ties": sum(entry["tie"] is True for entry in entries),
        "answer_agreement": sum(equal) / count,
        "top1_agreement": sum(entry["top1_agreement"] for entry in entries) / count,
        "mean_kl": sum(entry["mean_kl"] for entry in entries) / count,
        "max_kl": max(entry["max_kl"] for entry in entries),
    }


def generated_pictures(size: tuple[int, int]) -> list[Any]:
    """Two pictures that are always the same: a colour gradient with a disc, and stripes."""
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
