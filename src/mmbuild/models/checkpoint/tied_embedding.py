"""The embedding of models whose weights hold it only under the name of a tensor that is tied to it.

Tied tensors are one, and programs that save a model keep any of their names (``safetensors.torch.save_model`` the
first of the alphabet: ``lm_head.weight`` before ``model.embed_tokens.weight``). transformers 5 ties both ways
(``PreTrainedModel.tie_weights``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmbuild.models import families
from mmbuild.models.checkpoint.hf_weights import StoredTensor
from mmbuild.models.checkpoint.tensor_table import DECODER_WORDS, ENCODER_WORDS, HEAD, SHARED_WORDS, full_name


def with_embedding(
    stored: Mapping[str, StoredTensor], family: str, embedding: str, *, tied: bool
) -> Mapping[str, StoredTensor]:
    """``stored`` with the embedding under its own name, if it is there under another.

    Args:
        stored: Tensors of a model by their full names.
        family: Family that defines the names.
        embedding: The embedding's source name in :mod:`mmbuild.models.checkpoint.tensor_table`.
        tied: Whether the config ties the head to it.
    """
    namings = families.family(family).NAMINGS
    if any(full_name(naming, embedding) in stored for naming in namings):
        return stored
    for naming in namings:
        # Two namings may have the same head.
        if not any(name.startswith(naming.prefix) for name in stored):
            continue
        for other in _tied_to(embedding, tied=tied):
            if (name := full_name(naming, other)) in stored:
                return {**stored, full_name(naming, embedding): stored[name]}
    return stored


def _tied_to(embedding: str, *, tied: bool) -> Iterator[str]:
    """Source names of the tensors that transformers ties to the embedding, in its order."""
    if embedding == SHARED_WORDS:
        yield from (ENCODER_WORDS, DECODER_WORDS)
    if tied:
        yield HEAD
