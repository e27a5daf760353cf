"""Recognizes a model by its ``config.json``: the family that builds it, or the reason why none does.

Kinds are distinguished by ``model_type``, by the classes in ``architectures`` and by keys of LLaVA's original layout.
The table is ``recognized.yaml``; ``unsupported.py`` checks what else no family can build.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmbuild.models.families.defaults import table
from mmbuild.models.families.facts import FamilyError
from mmbuild.models.families.transformers_config import display

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SOURCE = ("model.source",)
# Top-level keys that LLaVA's and VILA's original code writes.
_OWN_KEYS = ("llm_cfg", "mm_vision_tower", "mm_projector_type", "mm_hidden_size", "mm_vision_select_layer")


def is_original_layout(config: Mapping[str, Any]) -> bool:
    """Whether LLaVA's or VILA's original code wrote the config, not transformers."""
    return not isinstance(config.get("text_config"), Mapping) and any(key in config for key in _OWN_KEYS)


def builder(config: Mapping[str, Any]) -> str | None:
    """The family that builds a model; None if no family does."""
    for row in table("recognized.yaml")["families"]:
        if (
            config.get("model_type") in row["model_type"]
            and row.get("original_layout") in (None, is_original_layout(config))
            and all(_section_type(config, key) in kinds for key, kinds in row.get("sections", {}).items())
        ):
            return str(row["family"])
    return None


def types_of(family: str) -> Sequence[str]:
    """Top-level ``model_type`` values of configs that ``family`` reads."""
    rows = table("recognized.yaml")["families"]
    return [kind for row in rows if row["family"] == family for kind in row["model_type"]]


def _section_type(config: Mapping[str, Any], key: str) -> Any:
    section = config.get(key)
    return section.get("model_type", "") if isinstance(section, Mapping) else ""


def wrong_family(config: Mapping[str, Any], family: str) -> FamilyError:
    """MM410: ``family`` does not build the model; names the family that does, or the reason why none does."""
    kind = config.get("model_type")
    right = builder(config)
    if right is not None and right != family:
        return _of_another(config, family, right)
    if kind is None:
        return _unknown("config.json has no `model_type`", _SOURCE)
    other = similar_kind(model_type=kind) if isinstance(kind, str) else None
    if other is not None:
        return not_any_family(other, f"model_type {display(kind)}")
    if not any(kind in row["model_type"] for row in table("recognized.yaml")["families"]):
        return _unknown(
            f"config.json says model_type {display(kind)}, which is not supported: no family builds it",
            _SOURCE,
        )
    names = " or ".join(f"`{name}`" for name in types_of(family))
    return _unknown(f"config.json says model_type {display(kind)}, and family {family} needs {names}", ())


def tower_setting(config: Mapping[str, Any]) -> str:
    """Recipe setting for a model that only names its tower."""
    tower = config.get("mm_vision_tower")
    if not (isinstance(tower, str) and REPOSITORY.fullmatch(tower)):
        tower = "openai/clip-vit-large-patch14-336"
    return f"`vision: {{source: hf://{tower}}}` below `model`"


def _of_another(config: Mapping[str, Any], family: str, right: str) -> FamilyError:
    needs = ""
    if right == "vila" and "llm_cfg" not in config:
        needs = f" with {tower_setting(config)}"
    elif config.get("model_type") in ("opt", "t5"):
        needs = " with a BLIP-2 checkpoint as `model.vision`"
    layout = "" if right != "vila" else f" in {'VILA' if 'llm_cfg' in config else 'LLaVA'}'s own layout"
    return FamilyError(
        f"config.json describes a model of model_type {display(config.get('model_type'))}{layout}, "
        f"which family {family} does not read",
        code="MM410",
        hint=f"set model.family to `{right}`, which builds it{needs}",
    )


def _unknown(message: str, blame: tuple[str, ...]) -> FamilyError:
    names = dict.fromkeys(row["family"] for row in table("recognized.yaml")["families"])
    listed = "; ".join(f"{', '.join(f'`{kind}`' for kind in types_of(one))} (family {one})" for one in names)
    return FamilyError(message, code="MM410", hint=f"supported are {listed}", blame=blame)


def similar_kind(
    *, model_type: str | None = None, architecture: str | None = None
) -> Mapping[str, str] | None:
    """The row of ``recognized.yaml`` for a similar but unsupported model, by ``model_type`` or by class."""
    for row in table("recognized.yaml")["others"]:
        for key, value in (("model_type", model_type), ("architecture", architecture)):
            if value is not None and re.search(row[key], value):
                found: Mapping[str, str] = row
                return found
    return None


def not_any_family(other: Mapping[str, str], evidence: str, code: str = "MM410") -> FamilyError:
    """MM410: the model is similar to a family's, but no family builds it."""
    return FamilyError(
        f"config.json describes {other['name']} ({evidence}), which is not supported: {other['why']}",
        code=code,
        hint=other["instead"],
        blame=_SOURCE,
    )


def other_section(key: str, model_type: str, family: str, known: Collection[str]) -> FamilyError:
    """MM410: the family does not support this kind of section."""
    names = " and ".join(f"`{name}`" for name in known)
    message = f"`{key}.model_type` is {display(model_type)}, and family {family} is built for {names}"
    right = builder({"model_type": types_of(family)[0], key: {"model_type": model_type}})
    if key == "text_config" and right is not None:
        return FamilyError(message, code="MM410", hint=f"set model.family to `{right}`, which builds it")
    hint = f"use a model whose `{key}` is {names.replace(' and ', ' or ')}; no family builds this combination"
    return FamilyError(message, code="MM410", hint=hint, blame=_SOURCE)
