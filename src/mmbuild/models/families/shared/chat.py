"""Applies chat templates to plain questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmbuild.models.errors import EngineError
from mmbuild.models.families.turns import Turn
from mmbuild.models.files.chat_template import Holder, content_form, saved_template
from mmbuild.models.files.template_rendering import Form
from mmbuild.models.files.template_worker import WORKER, RenderError

IMAGE = "<image>"
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Chat:
    """A model's chat template, and its form of message content.

    Attributes:
        tokenizer: transformers' tokenizer, which renders the template.
        template: The Jinja source.
        form: ``parts`` or ``text``, see :func:`mmbuild.models.files.chat_template.content_form`.
        image_token: The image token in prompts.
    """

    tokenizer: Any
    template: str
    form: Form
    image_token: str

    def prompt(self, question: str, images: int) -> Prompt:
        """Prompt for ``question`` with ``images`` images; a question with image tokens is a complete prompt."""
        if self.image_token in question:
            return Prompt(question)
        return self.conversation([Turn("user", (*[None] * images, question))])

    def conversation(self, turns: Sequence[Turn]) -> Prompt:
        """Prompt for the answer to a conversation.

        Raises:
            EngineError: MM518, the model's template refuses these turns.
        """
        text = self._rendered(turns)
        # As in transformers' processors: no special tokens are added if the template already writes them.
        start = self.tokenizer.bos_token
        return Prompt(text, add_special_tokens=not (start and text.startswith(start)))

    def _rendered(self, turns: Sequence[Turn]) -> str:
        """The prompt; turns without images are also tried as strings, which some templates need for the system's."""
        failure = ""
        for plain in (False, True):
            messages = [{"role": turn.role, "content": self._content(turn.parts, plain)} for turn in turns]
            try:
                text = WORKER.render(self.template, messages, self.tokenizer.special_tokens_map)
            except RenderError as error:
                failure = failure or str(error)
                continue
            if not any(
                isinstance(item["content"], list) and _shown(item["content"], text) for item in messages
            ):
                return text
            failure = failure or "the prompt shows a list of parts itself"
        raise EngineError(
            f"the model's chat template refuses the conversation: {failure}",
            code="MM518",
            hint="use the roles that the model knows: usually user and assistant in turn",
        )

    def _content(self, parts: Sequence[str | None], plain: bool) -> str | list[dict[str, str]]:
        if self.form == "text" or (plain and None not in parts):
            return "".join(f"{self.image_token}\n" if part is None else part for part in parts)
        return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]


def _shown(parts: Sequence[dict[str, str]], prompt: str) -> bool:
    """Whether a prompt contains Python's or JSON's writing of a part."""
    return any(repr(part) in prompt or json.dumps(part, ensure_ascii=False) in prompt for part in parts)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A complete prompt.

    Attributes:
        text: The prompt, with one image token per image.
        add_special_tokens: Whether the tokenizer adds its start and end tokens.
    """

    text: str
    add_special_tokens: bool = True


def load_chat(
    directories: Sequence[Path], tokenizer: Any, image_token: str, family: str, holder: Holder
) -> Chat:
    """The chat template of a model, or else the default of its family.

    Args:
        directories: Directories of the model's small files; the first with a template is used.
        tokenizer: transformers' tokenizer.
        image_token: The image token in prompts.
        family: The family's package, which has the default template.
        holder: The class of transformers that reads the template.

    Raises:
        TemplateError: MM730, the template cannot ask about a picture.
        SmallFileError: MM731, a file that may contain the template is damaged.
    """
    found = next((kept for at in directories if (kept := saved_template(at, holder=holder))), None)
    text = found.text if found else own_template(family).replace(IMAGE, image_token)
    form = content_form(found or text, tokenizer.special_tokens_map, image_token)
    return Chat(tokenizer, text, form, image_token)


def own_template(family: str) -> str:
    """The default chat template of a family, for models without one."""
    return files(family).joinpath(TEMPLATE).read_text(encoding="utf-8")
