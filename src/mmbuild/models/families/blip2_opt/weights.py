"""Where BLIP-2's OPT decoder lies: below ``language_model.`` in a whole checkpoint, bare in a text one.

Text checkpoints of before transformers 4.19 have no ``model.`` in front.
"""

from __future__ import annotations

from mmbuild.models.families.facts import Naming

NAMINGS = (
    Naming("language_model.model.decoder.", "language_model.lm_head.weight"),
    Naming("model.decoder.", "lm_head.weight"),
    Naming("decoder.", "lm_head.weight"),
)
