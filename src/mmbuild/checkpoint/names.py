"""Where a family's decoder lies among the model's tensors.

transformers moved LLaVA's decoder from ``language_model.model.`` to ``model.language_model.``; both are on
the hub, and transformers 5 still writes the older one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mmbuild.checkpoint.errors import CheckpointError
from mmbuild.checkpoint.tensors import EMBEDDING, HEAD


@dataclass(frozen=True, slots=True)
class Naming:
    """One way to name the decoder's tensors: prefix of the layers, full name of the output head."""

    decoder: str
    head: str

    def full(self, source: str) -> str:
        """Full name of a tensor of :mod:`mmbuild.checkpoint.tensors`."""
        return self.head if source == HEAD else self.decoder + source


NAMINGS: Mapping[str, tuple[Naming, ...]] = {
    "llava": (
        Naming("language_model.model.", "language_model.lm_head.weight"),
        Naming("model.language_model.", "lm_head.weight"),
    ),
}

# Buffers that older transformers saved though they follow from the config.
DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attention.bias")


def naming_of(family: str, names: Collection[str]) -> Naming:
    """The naming that the model uses.

    Raises:
        CheckpointError: MM430, no naming of the family fits.
    """
    candidates = NAMINGS[family]
    for naming in candidates:
        if naming.full(EMBEDDING) in names:
            return naming
    wanted = " nor ".join(f"`{naming.full(EMBEDDING)}`" for naming in candidates)
    raise CheckpointError(
        f"the weights hold neither {wanted}",
        code="MM430",
        hint=f"Check that the weights are of family {family}",
    )


def unused(naming: Naming, names: Collection[str], used: Collection[str]) -> list[str]:
    """Tensors of the decoder that no part of the checkpoint is made of (biases, adapters)."""
    return sorted(
        name
        for name in set(names) - set(used)
        if (name.startswith(naming.decoder) or name == naming.head) and not name.endswith(DERIVED)
    )
