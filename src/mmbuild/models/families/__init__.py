"""Model families: one package each, looked up by name. Everything specific to a family is in its package:

================  ===============================================================================
``__init__``      ``TRAITS``, ``facts(config, vision)``: facts from ``config.json``, ``NAMINGS``: names of language
                  model tensors, and ``settings_place``: its generation settings. Does not import torch.
``files``         ``expected``: location of tokenizer and processor, and numbers in them that repeat ``config.json``.
``visual``        ``make`` and ``canonical``: tower and projector as one module, and the names of its weights.
``visual_weights``  ``canonical`` again, and ``tensors``: the shapes of these weights. Does not import torch.
``visual_shape``  ``shape``: the keys of ``config.json`` that this module is built from. Does not import torch.
``processor``     ``load``: converts prompts and images to token ids and pixels; ``write_stand_in`` for random models.
``reference``     ``load``, ``load_inputs``: model and processor of transformers; ``tensor_shapes`` of a random model.
================  ===============================================================================

``blip2`` contains two families, ``opt`` and ``t5``, which have separate modules in place of ``__init__`` and share
the other parts. Code shared by several packages is in ``mmbuild.models.families.shared``.

A new family needs, in this directory:

1. Its package, as above. ``facts.py`` documents ``TRAITS`` (:class:`~mmbuild.models.families.facts.Traits`,
   properties of the family) and what ``facts`` returns.
2. A row in :data:`MODULES`.
3. ``recognized.yaml``: rows under ``families`` and ``architectures``, which configs it reads and builds. If configs
   of other families could be mistaken for its own, ``recognize.py`` names the right family in the hint.
4. For config sections that no other family has: ``fields.yaml`` (keys and types), ``defaults.yaml``, and what the
   class of transformers derives from them in ``_DERIVED`` of ``transformers_config.py``.
5. ``recorded/owner--name.json``: the ``config.json`` of released models.

Elsewhere:

6. ``mmbuild/schema/exclusive_settings.yaml``: its name in rows with ``model.family`` that apply to it.
7. ``mmbuild/backends/tensorrt_llm/toolchains``: an entry under ``families`` of ``0.12.0/toolchain.yaml``, which the
   other versions extend, and its name in the lists ``families:`` and the conditions on ``family`` of all files there
   and in ``output_checks/tensors.yaml`` beside it.
8. Only for a new architecture: a table in ``mmbuild/models/checkpoint/tensor_table.py``, and a module in
   ``mmbuild/backends/torch``.
9. A recipe, a page in ``docs/families``, ``make docs``, and the tests that CONTRIBUTING.md lists.
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

# Registry: a recipe's `model.family`, and the module with its ``facts``.
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
