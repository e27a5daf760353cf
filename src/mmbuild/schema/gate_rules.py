"""Rejects gates that cannot be evaluated or can never pass."""

from __future__ import annotations

from collections.abc import Iterator

from mmbuild.base.diagnostics import Violation
from mmbuild.schema.model import Backend, Recipe


def is_dummy(recipe: Recipe) -> bool:
    """Whether the model's weights are random."""
    return recipe.model.source.startswith("dummy://")


def gates_without_verify(recipe: Recipe) -> Iterator[Violation]:
    """Reject gates that nothing evaluates."""
    if recipe.gates is None:
        return
    if recipe.engine.backend == Backend.TENSORRT_LLM:
        yield Violation(
            "MM593",
            ("gates", "engine.backend"),
            "gates are given for engine.backend tensorrt-llm, but its runner returns no logits to evaluate",
            "remove gates, or check the same weights with engine.backend torch",
        )
    elif recipe.verify is None:
        yield Violation(
            "MM592",
            ("gates",),
            "gates are given without a `verify` section, so there are no measurements to evaluate",
            "add a `verify` section (`verify: {}` uses default questions), or remove gates",
        )


def gates_beyond_length(recipe: Recipe) -> Iterator[Violation]:
    """Reject a gate that requires more equal tokens than are compared."""
    if recipe.gates is None or recipe.verify is None or recipe.gates.min_greedy_prefix is None:
        return
    requested, output = recipe.verify.max_new_tokens, recipe.engine.max_output_len
    compared = min(requested, output)
    if recipe.gates.min_greedy_prefix > compared:
        yield Violation(
            "MM594",
            ("gates.min_greedy_prefix", "verify.max_new_tokens"),
            f"min_greedy_prefix is {recipe.gates.min_greedy_prefix}, but only {compared} tokens are compared: "
            f"the minimum of verify.max_new_tokens {requested} and engine.max_output_len {output}",
            f"set it to {compared} or less, or raise the lengths",
        )


def gates_on_random_weights(recipe: Recipe) -> Iterator[Violation]:
    """Warn about gates on random weights."""
    if recipe.gates is not None and is_dummy(recipe):
        yield Violation(
            "MM595",
            ("gates", "model.source"),
            f"gates are given for `{recipe.model.source}`, whose weights are random: "
            "they will be evaluated, but say nothing about the model",
            "remove gates, or set model.source to the real weights",
            "warning",
        )
