"""Reading ``config.json``: sections, token ids, and the faults that every family tells alike."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmbuild.families.base import FamilyError
from mmbuild.families.defaults import with_defaults
from mmbuild.models.errors import EngineError

_OTHER = "Set model.family to the family of this model, or model.source to a model of this family"


def require_model_type(config: Mapping[str, Any], family: str, known: Collection[str]) -> str:
    """The ``model_type`` of a ``config.json``.

    Raises:
        FamilyError: MM410, it is none of ``known``.
    """
    model_type = str(config.get("model_type"))
    if model_type not in known:
        names = " or ".join(f"`{name}`" for name in known)
        raise FamilyError(
            f"config.json says model_type `{model_type}`, and family {family} needs {names}",
            code="MM410",
            hint=_OTHER,
        )
    return model_type


def section(config: Mapping[str, Any], key: str, family: str, known: Collection[str]) -> Mapping[str, Any]:
    """The mapping ``config[key]`` over the defaults of its ``model_type``; left out, that is the first of ``known``.

    Raises:
        FamilyError: MM411, it is missing; MM410, it is of another kind of model.
    """
    found = config.get(key)
    if not isinstance(found, Mapping):
        raise FamilyError(
            f"config.json has no `{key}`", code="MM411", hint="Download the model's config.json again"
        )
    model_type = str(found.get("model_type", next(iter(known))))
    if model_type not in known:
        names = " and ".join(f"`{name}`" for name in known)
        raise FamilyError(
            f"`{key}.model_type` is `{model_type}`, and family {family} is built for {names}",
            code="MM410",
            hint=_OTHER,
        )
    return {**with_defaults(model_type, found), "model_type": model_type}


def not_built(what: str, hint: str | None = None) -> FamilyError:
    """MM411: the config asks for something that no engine is built for."""
    return FamilyError(what, code="MM411", hint=hint)


def token_ids(value: object) -> tuple[int, ...]:
    """One id, a list of them, or none, as a tuple."""
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list):
        return tuple(int(item) for item in value)
    return ()


def square(where: str, value: object) -> int:
    """A side in pixels, written as a number or as two equal ones.

    Raises:
        FamilyError: MM411, it is neither.
    """
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) == 2 and sides[0] == sides[1] and isinstance(sides[0], int) and sides[0] > 0:
        return int(sides[0])
    raise not_built(f"`{where}` is {value}; square sizes in pixels are built")


def pair(where: str, value: object) -> tuple[int, int]:
    """Height and width of what is written as one number or two.

    Raises:
        FamilyError: MM411, it is neither.
    """
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
        return sides[0], sides[1]
    raise not_built(f"`{where}` is {value}; a number of pixels, or height and width, is built")


def saved_config(directory: Path) -> Mapping[str, Any]:
    """``config.json`` of a model directory.

    Raises:
        EngineError: MM516, it is missing or damaged.
    """
    path = directory / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}",
            code="MM516",
            hint="The processor's files are incomplete: apply the recipe again",
        ) from error
    return config


def saved_configs(directory: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """``config.json`` of a model's small files, and that of its second source in ``vision/`` where it has one."""
    second = directory / "vision"
    return saved_config(directory), saved_config(second) if (second / "config.json").is_file() else None
