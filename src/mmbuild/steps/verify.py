"""verify: an engine's answers against transformers on the same weights.

An unquantized engine must give the reference's greedy tokens, or part from them where the reference itself
was undecided within rounding; anything else fails. A quantized engine is measured, not judged: KL of
next-token distributions and agreement of answers. The report holds results only, no times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.checkpoint.progress import Progress, silent
from mmbuild.errors import MmbuildError
from mmbuild.steps.base import StepContext

if TYPE_CHECKING:
    from mmbuild.engine.compare import Comparison
    from mmbuild.engine.engine import Engine

REPORT = "report.json"
# Asked where a recipe names none; put into the model's chat form.
DEFAULT_PROMPTS = ("What is in the picture?", "Describe the picture in detail.")
DEFAULT_NEW_TOKENS = 32


class VerifyError(MmbuildError):
    """An engine that disagrees with the reference."""


def run(context: StepContext) -> None:
    """``params``: ``{"prompts", "max_new_tokens", "algorithm"}``; inputs ``engine``, ``model`` and
    where there is one ``vision``; locators: images.

    Raises:
        VerifyError: An unquantized engine parts from the reference by more than rounding.
        EngineError: The engine cannot be loaded.
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
    launch.spread(ranks, "mmbuild.steps.verify:check_in_rank", plain)


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
    report = measure(
        engine,
        {name: path for name, path in context.inputs.items() if name != "engine"},
        prompts=questions(engine, context.params["prompts"]),
        images=images or generated_pictures(engine.visual.config.image_size),
        max_new_tokens=context.params["max_new_tokens"],
        progress=context.progress,
    )
    write(report, context.out / REPORT)
    judge(report)


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report, whole or not at all.

    Raises:
        VerifyError: ``path`` cannot be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise VerifyError(
            f"the report `{path}` cannot be written: {error.strerror}",
            code="MM562",
            hint="Give another place with --out",
        ) from error


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
        Plain data: a summary, and one entry per question with both answers.
    """
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
        compared = compare(engine, request, continuation)
        entries.append(_entry(engine, number, prompt, compared))
    return {"version": 1, "summary": summarize(engine, entries), "questions": entries}


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
    return {"image": image, "prompt": prompt, "answers": answers, "tie": tie, **asdict(compared)}


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


def judge(report: dict[str, Any]) -> None:
    """Fail an unquantized engine that parts from the reference where rounding does not explain it.

    Raises:
        VerifyError: With the first difference and both sides' logits.
    """
    if report["summary"]["quant_algo"] is not None:
        return
    for entry in report["questions"]:
        if entry["tie"] is False:
            raise VerifyError(f"the engine disagrees with transformers: {describe(entry)}", code="MM560")


def describe(entry: dict[str, Any]) -> str:
    """The first difference of a question in one sentence."""
    difference = entry["difference"]
    theirs, ours = difference["reference_logits"], difference["engine_logits"]
    return (
        f"image {entry['image']}, prompt `{entry['prompt'] or ''}`, token {difference['position'] + 1}: "
        f"{difference['reference_token']} (reference logits {theirs[0]:.4f} against {theirs[1]:.4f}) became "
        f"{difference['engine_token']} (engine logits {ours[1]:.4f} against {ours[0]:.4f})"
    )


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
