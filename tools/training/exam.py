"""Marks: shares of right answers, the baseline that sees no picture, and their table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Question(Protocol):
    """What both worlds ask."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...


Marks = dict[str, list[bool]]
Shares = dict[str, float]
Table = dict[str, Shares]
Asked = Sequence[Sequence[Question]]


@torch.no_grad()
def mark(logits: Callable[[slice], tuple[Tensor, Tensor]], asked: Asked, step: int = 100) -> Shares:
    """Percentage of questions answered exactly, by kind and over all.

    Teacher forcing: greedy decoding gives exactly the right answer if and only if every token of the answer,
    the end included, is the most likely one after the right tokens before it.

    Args:
        logits: From rows of the exam to their logits [rows, slots, length, vocabulary] and the labels
            [rows, slots, length] that they should give, -100 where nothing is asked.
        asked: The question of each slot of each row; slots beyond are not counted.
        step: Rows at a time.
    """
    right: Marks = defaultdict(list)
    for start in range(0, len(asked), step):
        rows = slice(start, start + step)
        scores, labels = logits(rows)
        exact = ((scores.argmax(-1) == labels) | (labels == -100)).all(-1).cpu()
        for picture, questions in zip(exact, asked[rows], strict=True):
            for slot, question in enumerate(questions):
                right[question.kind].append(bool(picture[slot]))
    return shares(right)


def majority(seen: Asked, asked: Asked) -> Shares:
    """The best answer that knows the question and not the picture: the commonest one in training."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in _each(seen):
        counts[question.text][question.answer] += 1
    right: Marks = defaultdict(list)
    for question in _each(asked):
        right[question.kind].append(counts[question.text].most_common(1)[0][0] == question.answer)
    return shares(right)


def shares(right: Mapping[str, list[bool]]) -> Shares:
    """Percentages of true marks, by kind and over all."""
    by_kind = {kind: 100 * sum(marks) / len(marks) for kind, marks in sorted(right.items())}
    every = [one for marks in right.values() for one in marks]
    return {"all": 100 * sum(every) / len(every), **by_kind}


def as_markdown(table: Table) -> str:
    """The table of a README; a column for each kind of the first row."""
    kinds = list(next(iter(table.values())))
    lines = ["| % exact | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[kind]:.1f}" for kind in kinds) + " |")
    return "\n".join(lines)


def _each(asked: Asked) -> Iterable[Question]:
    return (question for questions in asked for question in questions)
