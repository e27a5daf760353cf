"""Which of its family's namings a model uses."""

from __future__ import annotations

from collections.abc import Collection

from mmbuild.models.checkpoint.errors import CheckpointError
from mmbuild.models.checkpoint.tensor_table import HEAD
from mmbuild.models.families import part
from mmbuild.models.families.facts import Naming

# Buffers that older transformers saved though they follow from the config.
DERIVED = ("rotary_emb.inv_freq", "masked_bias", "attention.bias")


def full_name(naming: Naming, source: str) -> str:
    """Full name of a tensor of :mod:`mmbuild.models.checkpoint.tensor_table`."""
    return naming.head if source == HEAD else naming.prefix + source


def naming_of(family: str, names: Collection[str], first: str) -> Naming:
    """The naming that the model uses: the one that finds ``first``, a source of its tables.

    Raises:
        CheckpointError: MM430, no naming of the family fits.
    """
    candidates: tuple[Naming, ...] = part(family, "weights").NAMINGS
    for naming in candidates:
        if full_name(naming, first) in names:
            return naming
    wanted = " nor ".join(f"`{full_name(naming, first)}`" for naming in candidates)
    raise CheckpointError(
        f"the weights hold neither {wanted}",
        code="MM430",
        hint=f"Check that the weights are of family {family}",
    )


def unused_tensors(naming: Naming, names: Collection[str], used: Collection[str]) -> list[str]:
    """Tensors of the language model that no part of the checkpoint is made of (biases, adapters)."""
    return sorted(
        name
        for name in set(names) - set(used)
        if (name.startswith(naming.prefix) or name == naming.head)
        and not name.removeprefix(naming.prefix).startswith(naming.others)
        and not name.endswith((*DERIVED, *naming.ignored))
    )
