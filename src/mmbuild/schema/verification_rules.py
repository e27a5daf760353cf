"""Pictures and questions that the built engine could not be verified with, found while the recipe is validated."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.schema.model import Backend, Recipe

if TYPE_CHECKING:
    from mmbuild.models.files.checked_model import Model as GivenModel

_IMAGES, _PROMPTS, _LIMIT = "verify.images", "verify.prompts", "engine.max_input_len"
_SHOWN = 40


def verify_faults(
    recipe: Recipe, model: GivenModel | None, faulty: Collection[str]
) -> tuple[list[Violation], list[Path]]:
    """Faults of ``verify``, and the files that were read.

    Args:
        recipe: With absolute paths.
        model: The model with its files; None where none of them are here.
        faulty: Dotted paths that are at fault already; what follows from them is no finding.
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
    # Late: most recipes name no pictures.
    from mmbuild.models.files.small_files import display
    from mmbuild.models.image_files import TAKEN, problem

    for number, path in images:
        found = problem(path)
        if found is not None:
            yield Violation(
                "MM517",
                (f"{_IMAGES}[{number}]",),
                f"the image `{display(path)}` {found}",
                "check the path; it is relative to the file that names it"
                if "exist" in found
                else f"give a {TAKEN} file",
            )


def _questions(recipe: Recipe, model: GivenModel) -> Iterator[Violation]:
    """Questions that are longer than the engine takes; TensorRT-LLM's runner has a chat form of its own."""
    verify, limit = recipe.verify, recipe.engine.max_input_len
    if verify is None or recipe.engine.backend != Backend.TORCH:
        return
    from mmbuild.models.prompts import DEFAULT_PROMPTS, tokens_beyond

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
                f"visual features, and max_input_len is {limit}",
                f"shorten the prompt, or raise engine.max_input_len to {count}",
            )


def _short(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 4] + " ..."
