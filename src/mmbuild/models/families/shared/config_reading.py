"""Shared readers of ``config.json``: kinds of models, sections, token ids and sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.models.errors import EngineError
from mmbuild.models.families.defaults import table
from mmbuild.models.families.facts import FamilyError
from mmbuild.models.families.recognize import other_section, wrong_family
from mmbuild.models.families.transformers_config import MISSING, display, is_kind, parse, wrong_value

_UNUSUAL = "use a model without this setting"


def require_model_type(config: Mapping[str, Any], family: str, known: Collection[str]) -> str:
    """The ``model_type`` of a ``config.json``.

    Raises:
        FamilyError: MM410, it is none of ``known``.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise wrong_family(config, family)
    return model_type


def section(
    root: Mapping[str, Any],
    key: str,
    family: str,
    known: Collection[str],
    *,
    default_type: str | None = None,
    absent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A section of ``config.json`` as transformers parses it, with its ``model_type``.

    Args:
        root: The whole config.
        key: The section.
        family: The family.
        known: Values of its ``model_type`` that the family supports.
        default_type: Default of ``model_type``; None if it is required.
        absent: Replacement for a section that is missing or null; None if it is required.

    Raises:
        FamilyError: MM411, it is missing or not a mapping, or a value is invalid; MM410, it is of another kind of
            model.
    """
    found = absent if root.get(key) is None else root[key]
    if not isinstance(found, Mapping):
        raise wrong_value("", key, root.get(key, MISSING), "a section (a JSON object)")
    model_type = found.get("model_type", MISSING if default_type is None else default_type)
    if not isinstance(model_type, str):
        raise wrong_value(f"{key}.", "model_type", model_type, "the name of a kind of model", default_type)
    if model_type not in known:
        raise other_section(key, model_type, family, known)
    return {**parse(model_type, found, f"{key}."), "model_type": model_type}


def not_built(what: str, hint: str | None = None) -> FamilyError:
    """MM411: the config requires something unsupported."""
    return FamilyError(what, code="MM411", hint=hint)


def require_value(where: str, values: Mapping[str, Any], key: str, built: object, why: str) -> None:
    """Check that keys have their supported value; null and a missing key count as supported.

    Raises:
        FamilyError: MM411, with ``why``.
    """
    if values.get(key) not in (None, built):
        raise not_built(f"`{where}{key}` in config.json is {display(values[key])}: {why}", _UNUSUAL)


def token_ids(where: str, value: object) -> tuple[int, ...]:
    """Convert one id, a list of ids, or null to a tuple.

    Args:
        where: The key's full name, for messages.
        value: Its value.

    Raises:
        FamilyError: MM411, it is none of these.
    """
    if not is_kind(value, "int|ints?"):
        raise wrong_value("", where, value, "a token id, a list of them, or null")
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)  # type: ignore[return-value]


def first_token(*places: tuple[Mapping[str, Any], str, str]) -> int:
    """The first token id among several keys; null counts as missing.

    Args:
        places: Sections, prefixes of their keys in messages, and keys.

    Raises:
        FamilyError: MM411, a key has another value, or no key has an id.
    """
    for values, where, key in places:
        value = values.get(key)
        if not is_kind(value, "int?"):
            raise wrong_value(where, key, value, "a token id or null")
        if value is not None:
            return value  # type: ignore[no-any-return]
    values, where, key = places[0]
    raise wrong_value(where, key, values.get(key, MISSING), "the id of the token that answers begin with")


def side(where: str, key: str, value: object) -> int:
    """Side length in pixels, for towers whose classes take only one number.

    Raises:
        FamilyError: MM411, it is something else.
    """
    if not is_kind(value, "int") or value < 1:  # type: ignore[operator]
        raise wrong_value(
            where, key, value, "one number of pixels; only square pictures and patches are supported"
        )
    return value  # type: ignore[return-value]


def pair(where: str, key: str, value: object) -> tuple[int, int]:
    """Height and width from one number or two.

    Raises:
        FamilyError: MM411, it is neither.
    """
    sides: Any = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) == 2 and all(is_kind(one, "int") and one > 0 for one in sides):
        return sides[0], sides[1]
    raise wrong_value(where, key, value, "a number of pixels, or height and width")


def require_tower(where: str, tower: Mapping[str, Any]) -> None:
    """Check that transformers can build the tower.

    Raises:
        FamilyError: MM411, the activation is unknown, or the number of channels is not three.
    """
    known = table("fields.yaml")["every"]["activations"]
    if tower["hidden_act"] not in known:
        raise wrong_value(where, "hidden_act", tower["hidden_act"], "an activation that transformers knows")
    if tower.get("num_channels", 3) != 3:
        raise wrong_value(where, "num_channels", tower["num_channels"], "3, for red, green and blue", 3)


def square_sides(where: str, tower: Mapping[str, Any]) -> tuple[int, int]:
    """Sides of a tower's pictures and patches, in pixels.

    Raises:
        FamilyError: MM411, transformers cannot build the tower, or it has no patches.
    """
    require_tower(where, tower)
    image, patch = (side(where, key, tower[key]) for key in ("image_size", "patch_size"))
    if patch > image:
        raise not_built(f"`{where.rstrip('.')}` has image_size {image} and patch_size {patch}: no patch fits")
    return image, patch


def saved_config(directory: Path) -> Mapping[str, Any]:
    """``config.json`` of a model directory, without how its weights are stored: inputs do not depend on that.

    Raises:
        EngineError: MM516, it is missing or damaged.
    """
    path = directory / "config.json"
    try:
        config = read_object(path, MODEL_JSON)
        return {key: value for key, value in config.items() if key != "quantization_config"}
    except (OSError, FileRefusedError) as error:
        problem = (
            getattr(error, "problem", "") or f"cannot be read: {getattr(error, 'strerror', None) or error}"
        )
        raise EngineError(
            f"`{path}` {problem}",
            code="MM516",
            hint="the processor's files are incomplete: apply the recipe again",
        ) from error


def saved_configs(directory: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """``config.json`` of a model, and of its second source in ``vision/`` if there is one."""
    second = directory / "vision"
    return saved_config(directory), saved_config(second) if (second / "config.json").is_file() else None
