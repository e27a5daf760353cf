"""The table of what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hand_over.questions import Question

_COLUMNS = (
    "model",
    "form",
    "size, MB",
    "equal prompts",
    "tokens that are transformers' likeliest",
    "largest distance, nats",
    "equal answers",
    "right: vLLM",
    "right: transformers",
    "vLLM's step, ms",
)
HEAD = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|"


def row(model: str, form: str, checkpoint: Path, room: Path, asked: Sequence[Question]) -> str:
    """One line, from the files that both sides wrote."""
    sides = [room / f"{model}-{form}.{side}.json" for side in ("vllm", "transformers")]
    if not all(path.is_file() for path in sides):
        return f"| {model} | {form} | failed |" + " |" * (len(_COLUMNS) - 3)
    served, run = (json.loads(path.read_text("utf-8")) for path in sides)
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    behind = [value for answer in run["answers"] for value in answer["behind"]]
    step = served.get("step_ms")
    cells = [
        model,
        form,
        f"{size / 1e6:.2f}",
        _share(answer["same_prompt"] for answer in run["answers"]),
        _share(value == 0 for value in behind),
        f"{max(behind):.4f}",
        _share(
            own["text"] == other["text"] for own, other in zip(run["answers"], served["answers"], strict=True)
        ),
        *(_right(answers, asked) for answers in (served["answers"], run["answers"])),
        "-" if step is None else f"{step:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _share(values: Any) -> str:
    known = [bool(value) for value in values]
    return f"{sum(known)} of {len(known)}"


def _right(answers: Sequence[Any], asked: Sequence[Question]) -> str:
    """How many answers are the right ones; - if the questions have none."""
    known = [(answer["text"], one.answer) for answer, one in zip(answers, asked, strict=True) if one.answer]
    return _share(text == right for text, right in known) if known else "-"
