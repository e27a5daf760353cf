"""What the checkpoints are asked: files that both programs read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

SEED = 27_182
_ASKED = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Why is the sky blue?",
    "Write a sentence about a small boat.",
    "How many days are in a week?",
    "What do bees make?",
    "Explain what a compiler does.",
    "Give me a synonym of happy.",
)
_CHAT = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        picture: Picture file.
        prompt: The whole prompt, as the model's processor takes it.
        answer: The right answer; None: there is none.
    """

    picture: str
    prompt: str
    answer: str | None


def write(path: Path, questions: Sequence[Question]) -> None:
    """Write questions to a JSON file."""
    path.write_text(json.dumps([asdict(question) for question in questions], indent=1), encoding="utf-8")


def read(path: Path) -> list[Question]:
    """What :func:`write` wrote."""
    return [Question(**item) for item in json.loads(path.read_text("utf-8"))]


def of_demo(family: str, pictures: Path, count: int) -> list[Question]:
    """Questions about pictures that a demo model's training never saw, which are written to ``pictures``."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    import demo_worlds

    pictures.mkdir(parents=True, exist_ok=True)
    questions = []
    for number, asked in enumerate(demo_worlds.ask(family, SEED, count, held_out=True)):
        file = pictures / f"{family}-{number}.png"
        asked.pictures[0].save(file)
        questions.append(Question(str(file), str(asked.prompt), asked.answer))
    return questions


def of_real_decoder(pictures: Sequence[Path]) -> list[Question]:
    """Questions to the model of ``benchmarks.real_decoder``, whose decoder knows English and no pictures."""
    return [
        Question(str(pictures[number % len(pictures)]), _CHAT.format(text), None)
        for number, text in enumerate(_ASKED)
    ]


def picture(question: Question) -> Image.Image:
    """The picture, RGB."""
    return Image.open(question.picture).convert("RGB")
