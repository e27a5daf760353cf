"""Measures as ``steps/measure.py`` gives them, of questions whose numbers a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def question(
    kl: float,
    *,
    lost: float = 0.0,
    prefix: int = 4,
    answers: tuple[str, str] = ("two", "two"),
    answer_tokens: int = 2,
    compared: int = 4,
    image: int = 1,
    prompt: str | None = "how many ?",
) -> dict[str, Any]:
    """One question: ``kl`` and ``lost`` (nats a token) over the answer, and wild numbers after its end."""
    beyond = compared - answer_tokens
    return {
        "image": image,
        "prompt": prompt,
        "answers": {"reference": answers[0], "engine": answers[1]},
        "answer_tokens": answer_tokens,
        "tie": None,
        "difference": None,
        "reference_tokens": list(range(compared)),
        "engine_tokens": list(range(compared)),
        "equal_prefix": prefix,
        "kl": [kl] * answer_tokens + [1e3] * beyond,
        "reference_log_probs": [-0.5] * answer_tokens + [-0.1] * beyond,
        "engine_log_probs": [-0.5 - lost] * answer_tokens + [-50.0] * beyond,
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
        "pictures": ["0" * 64],
        "summary": {
            "dtype": "float32",
            "quant_algo": quant_algo,
            "questions": count,
            "tokens_each": len(questions[0]["reference_tokens"]),
            "identical": count,
            "ties": 0,
            "answer_agreement": 1.0,
            "top1_agreement": 1.0,
            "mean_kl": 0.0,
            "max_kl": 0.0,
        },
        "questions": list(questions),
    }
