"""Measures as ``steps/measure.py`` gives them, of questions whose numbers a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mmbuild.evaluation.page_facts import Origin

ORIGIN = Origin(
    "llava-int4",
    datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    {"name": "host-1", "cpu": "Some CPU", "cores": 8, "sm": None},
)
"""Where reports of tests come from."""


def question(
    kl: float,
    *,
    lost: float = 0.0,
    prefix: int = 4,
    answers: tuple[str, str] = ("two", "two"),
    tokens: int = 2,
    requested: int = 4,
    image: int = 1,
    prompt: str | None = "how many ?",
) -> dict[str, Any]:
    """One question of ``requested`` tokens, answered in ``tokens``: ``kl`` and ``lost`` are nats a token.

    It differs from the engine's answer after ``prefix`` tokens where that is less than ``tokens``.
    """
    apart = prefix < tokens
    return {
        "image": image,
        "prompt": prompt,
        "answers": {"reference": answers[0], "engine": answers[1]},
        "max_new_tokens": requested,
        "tie": True if apart else None,
        "difference": {
            "position": prefix,
            "reference_token": prefix,
            "engine_token": 99,
            "reference_logits": [2.0, 1.0],
            "engine_logits": [1.0, 2.0],
        }
        if apart
        else None,
        "context": {"before": "so far", "reference": "two", "engine": "three"} if apart else None,
        "reference_tokens": list(range(tokens)),
        "engine_tokens": [*range(prefix), *[99] * (tokens - prefix)] if apart else list(range(tokens)),
        "equal_prefix": min(prefix, tokens),
        "kl": [kl] * tokens,
        "reference_log_probs": [-0.5] * tokens,
        "engine_log_probs": [-0.5 - lost] * tokens,
        "mean_kl": kl,
        "max_kl": kl,
        "top1_agreement": 1.0,
    }


def measures(kls: Sequence[float], quant_algo: str | None = "W4A16", **same: Any) -> dict[str, Any]:
    """A question for each of ``kls``, with what :func:`question` takes."""
    return of([question(kl, **same) for kl in kls], quant_algo)


def of(questions: Sequence[dict[str, Any]], quant_algo: str | None = "W4A16") -> dict[str, Any]:
    """Measures of ``questions``."""
    count = len(questions)
    return {
        "reference": {"program": "transformers", "version": "5.17.0", "dtype": "float32", "device": "cpu"},
        "description": {
            "family": "llava",
            "backend": "torch",
            "versions": {"torch": "2.13.0", "transformers": "5.17.0"},
            "target": {"device": "cpu", "sm": None, "isa": "avx2"},
            "limits": {"max_batch_size": 2, "max_input_len": 128, "max_output_len": 40, "tensor_parallel": 1},
            "bytes": {"packages": 3_000_000, "weights": 2_000_000},
        },
        "pictures": ["0" * 64],
        "conversions": {},
        "max_new_tokens": max(one["max_new_tokens"] for one in questions),
        "summary": {
            "dtype": "float32",
            "quant_algo": quant_algo,
            "questions": count,
            "tokens": sum(len(one["reference_tokens"]) for one in questions),
            "equal_tokens": sum(one["equal_prefix"] for one in questions),
            "identical": count,
            "ties": 0,
            "answer_agreement": 1.0,
            "top1_agreement": 1.0,
            "mean_kl": 0.0,
            "max_kl": 0.0,
        },
        "questions": list(questions),
    }
