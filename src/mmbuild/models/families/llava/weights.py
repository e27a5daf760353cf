"""Where LLaVA's decoder lies among the model's tensors.

transformers moved it from ``language_model.model.`` to ``model.language_model.``; both are on the hub, and
transformers 5 still writes the older one.
"""

from __future__ import annotations

from mmbuild.models.families.facts import Naming

NAMINGS = (
    Naming("language_model.model.", "language_model.lm_head.weight"),
    Naming("model.language_model.", "lm_head.weight"),
)
