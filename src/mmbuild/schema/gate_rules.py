"""Rules on ``gates``: one that nobody would judge, or that nothing could pass, is told before any work."""

from __future__ import annotations

from collections.abc import Iterator

from mmbuild.base.diagnostics import Violation
from mmbuild.schema.model import Backend, Recipe


def is_dummy(recipe: Recipe) -> bool:
    """Whether the model's weights are random."""
    return recipe.model.source.startswith("dummy://")


def gates_without_verify(recipe: Recipe) -> Iterator[Violation]:
    """Gates without anything that judges them."""
    if recipe.gates is None:
        return
    if recipe.engine.backend == Backend.TENSORRT_LLM:
        yield Violation(
            "MM593",
            ("gates", "engine.backend"),
            "gates are given for engine.backend tensorrt-llm, whose runner shows no logits to judge",
            "Remove gates; or hold the same weights to them with engine.backend torch",
        )
    elif recipe.verify is None:
        yield Violation(
            "MM592",
            ("gates",),
            "gates are given, and nothing is verified: no question is asked that they could judge",
            "Add a `verify` section (`verify: {}` asks general questions), or remove gates",
        )


def gates_beyond_length(recipe: Recipe) -> Iterator[Violation]:
    """More equal tokens than are compared."""
    if recipe.gates is None or recipe.verify is None or recipe.gates.min_greedy_prefix is None:
        return
    requested, output = recipe.verify.max_new_tokens, recipe.engine.max_output_len
    compared = min(requested, output)
    if recipe.gates.min_greedy_prefix > compared:
        yield Violation(
            "MM594",
            ("gates.min_greedy_prefix", "verify.max_new_tokens"),
            f"min_greedy_prefix is {recipe.gates.min_greedy_prefix}, and {compared} tokens are compared: "
            f"the lesser of verify.max_new_tokens {requested} and engine.max_output_len {output}",
            f"Write {compared} or less, or raise the lengths",
        )


def gates_on_random_weights(recipe: Recipe) -> Iterator[Violation]:
    """Quality of random weights."""
    if recipe.gates is not None and is_dummy(recipe):
        yield Violation(
            "MM595",
            ("gates", "model.source"),
            f"gates are given for `{recipe.model.source}`, whose weights are random: "
            "they will be judged, and their values say nothing of the model",
            "Remove gates, or name the real weights in model.source",
            "warning",
        )
