"""Where BLIP-2's T5 lies: below ``language_model.`` in a whole checkpoint, bare in a text one.

Both stacks share one embedding table; older files hold copies of it, and a table of relative positions for
cross-attention that was never used.
"""

from __future__ import annotations

from mmbuild.models.families.facts import Naming

_IGNORED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "EncDecAttention.relative_attention_bias.weight",
)
NAMINGS = (
    Naming("language_model.", "language_model.lm_head.weight", ignored=_IGNORED),
    Naming("", "lm_head.weight", ignored=_IGNORED),
)
