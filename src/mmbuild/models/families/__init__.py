"""Families: one package each, found by name. All that mmbuild knows of a family is in its package:

==============  ===============================================================================
``__init__``    ``TRAITS``, ``facts(config, vision)``: what ``config.json`` means, and ``NAMINGS``: where the language
                model's tensors are among the model's. Imports no torch.
``files``       ``expected``: where tokenizer and processor are, and what in them repeats ``config.json``.
``visual``      ``make`` and ``canonical``: tower and projector as one module, and its weights' names.
``processor``   ``load``: prompts and pictures to token ids and pixels; ``write_stand_in`` for random models.
``reference``   ``load``: the model as transformers runs it, and ``tensor_shapes`` of a random one.
==============  ===============================================================================

``blip2`` holds two families, ``opt`` and ``t5``, with a module each in place of ``__init__`` and the other parts in
common. A part that several packages share is imported from ``mmbuild.models.families.shared``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import cast

from mmbuild.models.families.facts import (
    Derivation,
    Family,
    FamilyError,
    LlmFacts,
    ModelFacts,
    Traits,
    VisualFacts,
)

__all__ = [
    "MODULES",
    "Derivation",
    "Family",
    "FamilyError",
    "LlmFacts",
    "ModelFacts",
    "Traits",
    "VisualFacts",
    "family",
    "part",
]

# The registration: a recipe's `model.family`, and the module that has its ``facts``.
MODULES: dict[str, str] = {
    "blip2-t5": "mmbuild.models.families.blip2.t5",
    "blip2-opt": "mmbuild.models.families.blip2.opt",
    "llava": "mmbuild.models.families.llava",
    "vila": "mmbuild.models.families.vila",
    "nougat": "mmbuild.models.families.nougat",
}


def family(name: str) -> Family:
    """The family called ``name``.

    Raises:
        KeyError: No package is registered for it.
    """
    return cast(Family, importlib.import_module(MODULES[name]))


def part(name: str, module: str) -> ModuleType:
    """A module of a family's package: ``part("llava", "visual")``.

    Raises:
        KeyError: No package is registered for ``name``.
    """
    return importlib.import_module(f"{importlib.import_module(MODULES[name]).__package__}.{module}")
