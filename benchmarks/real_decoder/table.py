"""The table of results, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.real_decoder.score import Score, difference, worse, worse_perplexity
from benchmarks.real_decoder.texts import SCORED, Passages

OURS = "mmbuild"


def table(results: Mapping[str, Mapping[str, Score]], passages: Passages) -> str:
    """One line a format and tool; differences are mmbuild's value minus the tool's, as 95 % intervals."""
    lines = [
        f"{len(passages):,} passages, {len(passages) * SCORED:,} scored tokens",
        "",
        "| format | tool | KL, nats | perplexity | mmbuild's KL minus it | ratio of perplexities | mmbuild worse |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sides in results.items():
        lines += [_line(name, tool, sides[OURS], own) for tool, own in sides.items() if OURS in sides]
    return "\n".join(lines)


def _line(name: str, tool: str, ours: Score, own: Score) -> str:
    start = f"| {name} | {tool} | {own.divergence.mean():.4f} | {np.exp(own.loss.mean()):.2f} |"
    if tool == OURS:
        return f"{start} | | |"
    low, high = difference(ours.divergence, own.divergence)
    under, over = np.exp(difference(ours.loss, own.loss))
    verdict = ", ".join(
        what
        for what, is_worse in (
            ("KL", worse(ours.divergence, own.divergence)),
            ("perplexity", worse_perplexity(ours.loss, own.loss)),
        )
        if is_worse
    )
    return f"{start} {low:+.4f} to {high:+.4f} | {under:.3f} to {over:.3f} | {verdict or 'no'} |"
