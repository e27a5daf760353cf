"""Plain questions as the prompts that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmbuild.models.files.chat_template import Form, Holder, content_form, saved_template

IMAGE = "<image>"
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Chat:
    """A model's chat template, and the form of messages that it takes.

    Attributes:
        tokenizer: transformers' tokenizer, which renders the template.
        template: The Jinja source.
        form: ``parts`` or ``text``, see :func:`mmbuild.models.files.chat_template.content_form`.
        image_token: What names a picture in a prompt.
    """

    tokenizer: Any
    template: str
    form: Form
    image_token: str

    def prompt(self, question: str, images: int) -> Prompt:
        """``question`` about ``images`` pictures; one that names its pictures is a complete prompt already."""
        if self.image_token in question:
            return Prompt(question)
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": self._content(question, images)}],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
        )
        # As transformers' processors: a template that begins the text itself leaves nothing to add.
        start = self.tokenizer.bos_token
        return Prompt(text, add_special_tokens=not (start and text.startswith(start)))

    def _content(self, question: str, images: int) -> str | list[dict[str, str]]:
        if self.form == "text":
            return f"{self.image_token}\n" * images + question
        return [{"type": "image"}] * images + [{"type": "text", "text": question}]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A complete prompt.

    Attributes:
        text: The prompt, each picture named by the image token.
        add_special_tokens: Whether the tokenizer adds its own beginning and end.
    """

    text: str
    add_special_tokens: bool = True


def load_chat(
    directories: Sequence[Path], tokenizer: Any, image_token: str, family: str, holder: Holder
) -> Chat:
    """The chat template that a model keeps, else its family's.

    Args:
        directories: Where the model's small files are; the first that has a template counts.
        tokenizer: transformers' tokenizer.
        image_token: What names a picture in a prompt.
        family: The package that has the family's own template.
        holder: Which of transformers' classes reads the template.

    Raises:
        TemplateError: MM730, the template cannot ask about a picture.
        SmallFileError: MM731, a file that may hold the template is damaged.
    """
    found = next((kept for at in directories if (kept := saved_template(at, holder=holder))), None)
    text = found.text if found else own_template(family).replace(IMAGE, image_token)
    form = content_form(found or text, tokenizer.special_tokens_map, image_token)
    return Chat(tokenizer, text, form, image_token)


def own_template(family: str) -> str:
    """The chat template of a family's package, for models whose files have none."""
    return files(family).joinpath(TEMPLATE).read_text(encoding="utf-8")
