"""Checks the numbers of a ``config.json`` that must hold for any family."""

from __future__ import annotations

from collections.abc import Iterator

from mmbuild.models.families.facts import FamilyError, LlmFacts, ModelFacts
from mmbuild.models.families.transformers_config import display

# Supported activations, by name in transformers' ACT2FN.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_size",
    "intermediate_size",
)


# Larger than any real dimension, but small enough that products of sizes do not overflow.
_MOST = 2**31 - 1


def require_sound(facts: ModelFacts) -> None:
    """Check that sizes are plausible.

    Raises:
        FamilyError: MM411, listing all problems.
    """
    stacks = [("the encoder's ", facts.encoder), ("the decoder's ", facts.llm)]
    if facts.encoder is None:
        stacks = [("", facts.llm)]
    found = [f"{whose}{fault}" for whose, stack in stacks if stack is not None for fault in _of_stack(stack)]
    visual = facts.visual
    if not 1 <= visual.num_visual_features <= _MOST:
        found.append(f"num_visual_features is {visual.derivation.arithmetic}")
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size"):
        if not 1 <= getattr(visual, name) <= _MOST:
            found.append(f"the tower's {name} is {getattr(visual, name)}")
    if found:
        raise FamilyError(
            f"config.json describes no model: {'; '.join(found)}",
            code="MM411",
            hint="compare config.json with the model's original",
        )


def _of_stack(llm: LlmFacts) -> Iterator[str]:
    relative = ("num_buckets", "max_distance") if llm.position_embedding_type == "relative" else ()
    wrong = [name for name in (*_COUNTS, *relative) if not 1 <= getattr(llm, name) <= _MOST]
    yield from (f"{name} is {getattr(llm, name)}" for name in wrong)
    if not llm.norm_epsilon >= 0:  # NaN too
        yield f"norm_epsilon is {llm.norm_epsilon}"
    if llm.hidden_act not in ACTIVATIONS:
        yield f"activation is `{display(llm.hidden_act)[1:-1]}`, and {', '.join(ACTIVATIONS)} are built"
    if wrong:
        return
    heads, shared = llm.num_attention_heads, llm.num_key_value_heads
    if heads % shared:
        yield f"num_key_value_heads {shared} does not divide num_attention_heads {heads}"
    if llm.position_embedding_type != "learned_absolute":
        return  # there heads may be of any width
    if heads * llm.head_size != llm.hidden_size:
        yield f"num_attention_heads {heads} does not divide hidden_size {llm.hidden_size}"
    if not 1 <= llm.max_position_embeddings <= _MOST:
        yield f"max_position_embeddings is {llm.max_position_embeddings}"


def require_layer(where: str, value: object, layers: int) -> int:
    """Index of a tower's hidden state: 0 is the embeddings, ``layers`` the last one, negative from the end.

    Raises:
        FamilyError: MM411, the tower has no such state.
    """
    if isinstance(value, int) and -layers - 1 <= value <= layers:
        return value
    raise FamilyError(
        f"`{where}` is {value}, and the tower has {layers} layers",
        code="MM411",
        hint=f"a whole number from {-layers - 1} to {layers} is one of its hidden states",
    )
