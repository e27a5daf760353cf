"""Rejects images and prompts that the built engine could not be verified with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.base.near_paths import recipe_path_hint
from mmbuild.schema.model import FITTED, Recipe

if TYPE_CHECKING:
    from mmbuild.models.validation.checked_model import Model as CheckedModel

_IMAGES, _PROMPTS, _LIMIT = "verify.images", "verify.prompts", "engine.max_input_len"
_SHOWN = 40


def verify_faults(
    recipe: Recipe, model: CheckedModel | None, faulty: Collection[str]
) -> tuple[list[Violation], list[Path]]:
    """Violations in ``verify``, and the files that were read.

    Args:
        recipe: With absolute paths.
        model: The model with its files; None if none of them are available.
        faulty: Dotted paths with known violations; violations that follow from them are not reported.
    """
    if recipe.verify is None or touches(("verify",), [path for path in faulty if "[" not in path]):
        return [], []
    images = [
        (number, Path(image))
        for number, image in enumerate(recipe.verify.images)
        if f"{_IMAGES}[{number}]" not in faulty
    ]
    faults = list(_pictures(images))
    if model is not None and not touches(("model", _LIMIT), faulty):
        faults += _questions(recipe, model)
    return faults, [path for _, path in images if path.is_file()]


def _pictures(images: list[tuple[int, Path]]) -> Iterator[Violation]:
    # Imported late: most recipes name no images.
    from mmbuild.models.files.small_files import display
    from mmbuild.models.image_files import TAKEN, problem

    for number, path in images:
        fault = problem(path)
        if fault is not None:
            yield Violation(
                "MM517",
                (f"{_IMAGES}[{number}]",),
                f"the image `{display(path)}` {fault}",
                recipe_path_hint(path) if "exist" in fault else f"use a {TAKEN} file",
            )


def _questions(recipe: Recipe, model: CheckedModel) -> Iterator[Violation]:
    """Report prompts that are too long for the engine. TensorRT-LLM's runner has its own chat template."""
    verify, limit = recipe.verify, recipe.engine.max_input_len
    if verify is None or recipe.engine.backend not in FITTED:
        return
    from mmbuild.models.validation.prompts import DEFAULT_PROMPTS, tokens_beyond

    expected = model.expected()
    for number, prompt in enumerate(verify.prompts or DEFAULT_PROMPTS):
        count, features = (
            tokens_beyond(model, expected, prompt, limit),
            model.facts.visual.num_visual_features,
        )
        if count is not None:
            yield Violation(
                "MM512",
                (f"{_PROMPTS}[{number}]", _LIMIT),
                f"the prompt `{_short(prompt)}` takes {count} tokens, {features} of them "
                f"visual features, but max_input_len is {limit}",
                f"shorten the prompt, or raise engine.max_input_len to {count}",
            )


def _short(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 4] + " ..."
