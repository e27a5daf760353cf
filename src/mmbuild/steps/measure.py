"""measure: an engine's answers and transformers' on the same weights, as numbers; nothing is judged but the input.

The reference side is transformers alone: its processor and chat template on the same question and picture, and its
``generate`` with the model's own generation config, in the engine's number format, unquantized, on the same device.
Where the two sides are not given the same token ids and pixels, comparing answers is pointless: that is the error.
An unquantized engine of the same recipe gives the same tokens up to rounding (verify sees to that). All numbers are
over one population: the tokens of the reference's answers up to and including the end token. The result holds no
times. verify judges it, so that other gates measure nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.progress import Progress, silent
from mmbuild.core.steps.context import StepContext
from mmbuild.evaluation import thumbnails
from mmbuild.models.prompts import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from torch import Tensor

    from mmbuild.backends.torch.engine import Engine
    from mmbuild.backends.torch.parity import Comparison
    from mmbuild.models.images import Picture
    from mmbuild.models.processor import Request


_SHOWN = 6


def ids_differ(ours: Sequence[int], theirs: Sequence[int], tokenizer: Any) -> str | None:
    """The first difference between two prompts' token ids as a sentence; None where there is none."""
    if tuple(ours) == tuple(theirs):
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    return (
        f"the prompt's {len(ours)} tokens are not transformers' {len(theirs)}: from token {place + 1} on "
        f"{_around(ours, place, tokenizer)} instead of {_around(theirs, place, tokenizer)}"
    )


def _around(ids: Sequence[int], place: int, tokenizer: Any) -> str:
    some = list(ids[place : place + _SHOWN])
    if not some:
        return "nothing"
    text = tokenizer.decode([token for token in some if 0 <= token < len(tokenizer)])
    return f"{some} (`{text}`)"


def pixels_differ(ours: Tensor, theirs: Tensor) -> str | None:
    """How two float32 tensors [images, channels, height, width] differ as a sentence; None where they do not."""
    if ours.shape != theirs.shape:
        return f"the pixels' shape is {list(ours.shape)}, and transformers' is {list(theirs.shape)}"
    apart = (ours.float() - theirs.float()).abs()
    if not apart.numel() or not bool((apart > 0).any()):
        return None
    share = float((apart > 0).float().mean())
    return f"{share:.1%} of the pixels' values are not transformers', by up to {float(apart.max()):.4g}"


MEASURES = "measures.json"
PICTURES = "pictures"
DEFAULT_NEW_TOKENS = 32


def run(context: StepContext) -> None:
    """``params``: ``{"prompts", "max_new_tokens"}``; inputs ``engine``, ``model`` and where there is one
    ``vision``; locators: images. Leaves ``measures.json`` and ``pictures/<number>.png``, small ones.

    Raises:
        EngineError: The engine cannot be loaded, or its logits are not numbers.
        InputError: MM597, MM598: engine and reference are not given the same.
        RankError: A rank of an engine of several failed.
    """
    from mmbuild.backends.engine_dir import description
    from mmbuild.backends.torch.distributed import launch

    ranks = description.read(context.inputs["engine"]).llm["tensor_parallel"]
    if ranks == 1:
        check(context)
        return
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
    """The step within one process; raises as :func:`run`."""
    from mmbuild.backends.torch.engine import Engine

    # `image2` goes before `image10`.
    named = sorted(context.locators.items(), key=lambda item: (len(item[0]), item[0]))
    engine = Engine.load(context.inputs["engine"], check=False)  # an artifact of the store
    images = open_images([path for _, path in named], engine)
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
    thumbnails.save(images, context.out / PICTURES)


def open_images(images: Sequence[Any], engine: Engine) -> list[Picture]:
    """``images`` opened; two generated ones where there are none.

    Raises:
        EngineError: MM517, one cannot be read.
    """
    from mmbuild.models.images import open_picture

    return [open_picture(image) for image in images or generated_pictures(engine.visual.config.image_size)]


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

    Args:
        engine: A loaded engine.
        sources: Model directories, ``model`` and where there is one ``vision``.
        prompts: Questions, or complete prompts; None where the model takes none.
        images: Whatever :func:`mmbuild.models.images.open_picture` takes.
        max_new_tokens: Tokens of an answer at most.
        progress: Told the question and the share done.

    Returns:
        Plain data: what was compared with, a summary, and one entry per question with both answers.

    Raises:
        InputError: MM597, the engine's prompt is not transformers'; MM598, its pixels are not.
        EngineError: MM591, logits of a side are not numbers.
    """
    import transformers

    from mmbuild.models.reference import (
        ignore_generation_config,
        load_inputs,
        load_reference,
        open_for_reference,
    )

    config = engine.config
    progress("load the reference", 0.0)
    reference = load_reference(engine.description.family, sources, config.dtype, engine.session.device)
    if not engine.description.obeys_generation_config:
        ignore_generation_config(reference)
    prepare = load_inputs(engine.description.family, sources, reference)
    images = open_images(images, engine)
    questions = [(number, image, prompt) for number, image in enumerate(images, 1) for prompt in prompts]
    entries = []
    for done, (number, image, prompt) in enumerate(questions):
        progress(f"image {number}: {prompt or ''}", done / len(questions))
        with _naming(number, prompt):
            (request,) = engine.encode([image], [prompt])
            theirs = prepare(prompt, [open_for_reference(image)])
            require_equal_input(engine, request, theirs)
            entries.append(_question(engine, reference, (number, prompt), theirs, max_new_tokens))
    against = {
        "program": "transformers",
        "version": transformers.__version__,
        "dtype": config.dtype,
        "device": engine.session.device,
    }
    return {
        "reference": against,
        "pictures": [thumbnails.digest(image) for image in images],
        "conversions": {
            str(number): image.conversion for number, image in enumerate(images, 1) if image.conversion
        },
        "max_new_tokens": max_new_tokens,
        "summary": summarize(engine, entries),
        "questions": entries,
    }


def require_equal_input(engine: Engine, ours: Request, theirs: Request) -> None:
    """Refuse to compare answers to different questions.

    Args:
        engine: Whose tokenizer names the tokens.
        ours: What the engine is given.
        theirs: What transformers is given.

    Raises:
        InputError: MM597, other token ids; MM598, other pixels.
    """

    problem = ids_differ(ours.ids, theirs.ids, engine.processor.tokenizer)
    if problem is not None:
        raise InputError(problem, code="MM597", hint=_REPORT_IT)
    problem = pixels_differ(ours.pixels, theirs.pixels)
    if problem is not None:
        raise InputError(problem, code="MM598", hint=_REPORT_IT)


class InputError(MmbuildError):
    """An engine that is not given what transformers is given."""


_REPORT_IT = (
    "Answers to different input cannot be compared; report it with the model's small files and the picture"
)


@contextmanager
def _naming(image: int, prompt: str | None) -> Iterator[None]:
    """Errors of a question say which one it was."""
    try:
        yield
    except MmbuildError as error:
        from mmbuild.models.processor import first_line

        where = f"image {image}, prompt `{first_line(prompt or '', 60)}`"
        raise type(error)(f"{where}: {error.message}", code=error.code, hint=error.hint) from error.__cause__


def questions(engine: Engine, prompts: Sequence[str]) -> Sequence[str | None]:
    """What the engine is asked: the recipe's prompts, general ones, or nothing where it takes no text."""
    if not engine.processor.takes_text:
        return (None,)
    return tuple(prompts) or DEFAULT_PROMPTS


def _question(
    engine: Engine, reference: Any, about: tuple[int, str | None], request: Request, max_new_tokens: int
) -> dict[str, Any]:
    """Both sides' answers to one question, compared."""
    from dataclasses import replace

    from mmbuild.backends.torch.parity import compare, is_tie
    from mmbuild.models.reference import answer_greedily

    stopping = replace(engine.stopping(max_new_tokens), repetition=None)
    own = engine.processor
    answer = answer_greedily(reference, request, max_new_tokens, own.suppressed_token_ids, own.tokenizer)
    compared = compare(engine, request, answer, stopping)
    apart = compared.difference
    return {
        "image": about[0],
        "prompt": about[1],
        "max_new_tokens": max_new_tokens,
        "answers": {
            "reference": engine.text(compared.reference_tokens),
            "engine": engine.text(compared.engine_tokens),
        },
        "tie": None if apart is None else is_tie(apart, engine.config.dtype),
        "context": None if apart is None else _context(engine, compared),
        **asdict(compared),
    }


_BEFORE = 12


def _context(engine: Engine, compared: Comparison) -> dict[str, str | None]:
    """The text before the first difference, and what each side says there; None where it had ended."""
    place = compared.equal_prefix
    tokenizer, apart = engine.processor.tokenizer, compared.difference
    assert apart is not None
    before = list(compared.reference_tokens[max(0, place - _BEFORE) : place])
    sides = {"reference": apart.reference_token, "engine": apart.engine_token}
    return {
        "before": tokenizer.decode(before),
        **{side: None if token is None else tokenizer.decode([token]) for side, token in sides.items()},
    }


def summarize(engine: Engine, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report's head: every mean is over all tokens of the reference's answers, end tokens included."""
    count = len(entries)
    tokens = [len(entry["reference_tokens"]) for entry in entries]
    equal = [entry["answers"]["engine"] == entry["answers"]["reference"] for entry in entries]
    return {
        "dtype": engine.config.dtype,
        "quant_algo": engine.config.quant_algo,
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
    """A mean of each question, weighted by its tokens."""
    total = sum(entry[name] * count for entry, count in zip(entries, tokens, strict=True))
    return float(total / sum(tokens))


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
