"""Finds the chat template of a model, and runs it with limits: prompts, and the form of message content it takes.

This follows ``ProcessorMixin`` and ``PreTrainedTokenizerBase`` in transformers (5.10 to 5.17), without importing
transformers. :mod:`mmbuild.models.files.template_rendering` has what runs within the limits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mmbuild.base.errors import MmbuildError
from mmbuild.base.sandbox import BoundsExceededError, run_bounded
from mmbuild.models.files.small_files import display, read_json, read_text
from mmbuild.models.files.template_rendering import FailingError, Form, Message, detected_form, rendered

JINJA_FILE = "chat_template.jinja"
_LEGACY_FILE = "chat_template.json"
MORE_TEMPLATES = "additional_chat_templates"
_KEY = "chat_template"
_DEFAULT = "default"

Holder = Literal["processor", "tokenizer"]
_Work = Callable[..., str]


class TemplateError(MmbuildError):
    """A chat template cannot be read or rendered (MM730).

    Attributes:
        line: The line of the template that causes the error, from 1; None if unknown.
    """

    line: int | None = None


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template and the file it comes from.

    Attributes:
        text: The Jinja source.
        file: The file that contains it.
        key: The JSON key that contains it; None if the file is the template.
    """

    text: str
    file: Path
    key: str | None = None

    def place(self, line: int | None = None) -> str:
        """Location of ``line`` for messages: ``chat_template.jinja:3``."""
        file = display(self.file)
        if self.key is None:
            return f"`{file}`" if line is None else f"`{file}:{line}`"
        return f"`{file}` (" + ("" if line is None else f"line {line} of ") + f"`{self.key}`)"


def saved_template(directory: Path, *, holder: Holder = "processor") -> ChatTemplate | None:
    """The default chat template in ``directory``.

    Args:
        directory: Directory of a model's small files.
        holder: ``processor``: the template of ``AutoProcessor``, or else the tokenizer's (transformers' processors do
            not fall back to it). ``tokenizer``: the template of ``AutoTokenizer``.

    Raises:
        TemplateError: MM730, several named templates without a default one, or files that exclude each other.
        SmallFileError: MM731, a file that may contain the template is damaged.
    """
    found = _of_processor(directory) if holder == "processor" else None
    return found or _of_tokenizer(directory)


def _of_processor(directory: Path) -> ChatTemplate | None:
    """As ``ProcessorMixin.get_processor_dict``: key of the config, then the legacy file, then current files."""
    more = _more_templates(directory)
    legacy = _legacy(directory, more)
    stated = _of_config(directory / "processor_config.json")
    if stated is not None or (directory / _LEGACY_FILE).is_file():
        return stated or legacy
    file = directory / JINJA_FILE
    if file.is_file():
        text = read_text(file)
        return ChatTemplate(text, file) if text or more.keys() - {_DEFAULT} else None
    return _default_file(more, directory)


def _legacy(directory: Path, more: Mapping[str, Path]) -> ChatTemplate | None:
    """The template in ``chat_template.json``, which excludes further templates."""
    file = directory / _LEGACY_FILE
    if file.is_file() and more:
        raise _unusable(
            f"`{display(file)}` and `{display(directory / MORE_TEMPLATES)}` exclude each other",
            f"remove one of them, or move the template of the first to `{JINJA_FILE}`",
        )
    if file.is_file() and _KEY not in read_json(file):
        raise _unusable(f"`{display(file)}` has no key `{_KEY}`", "download the file again")
    if file.is_file():
        _require_no_list(file)
    return _stated(file)


def _of_config(file: Path) -> ChatTemplate | None:
    """The template in ``processor_config.json``; an empty one would be used, and every prompt would be empty."""
    if file.is_file():
        _require_no_list(file)
        if read_json(file).get(_KEY) == "":
            raise _unusable(
                f"`{_KEY}` in `{display(file)}` is empty, and transformers uses it before all other templates",
                "remove the key, or put the template there",
            )
    return _stated(file)


def _require_no_list(file: Path) -> None:
    """Only tokenizers take a list of named templates; processors of transformers keep it as it is, and fail."""
    if isinstance(read_json(file).get(_KEY), list):
        raise _unusable(
            f"`{_KEY}` in `{display(file)}` is a list, which transformers takes only in tokenizer_config.json",
            f"write the default template to `{JINJA_FILE}`, and the others to `{MORE_TEMPLATES}/`",
        )


def _of_tokenizer(directory: Path) -> ChatTemplate | None:
    """As ``PreTrainedTokenizerBase._from_pretrained``: separate files take precedence over the config's key."""
    more = _more_templates(directory)
    if _DEFAULT in more or (more and not (directory / JINJA_FILE).is_file()):
        return _default_file(more, directory)
    file = directory / JINJA_FILE
    if file.is_file():
        return ChatTemplate(read_text(file), file)
    return _stated(directory / "tokenizer_config.json")


def _more_templates(directory: Path) -> dict[str, Path]:
    folder = directory / MORE_TEMPLATES
    return {file.stem: file for file in sorted(folder.glob("*.jinja"))} if folder.is_dir() else {}


def _default_file(files: Mapping[str, Path], directory: Path) -> ChatTemplate | None:
    if not files:
        return None
    if _DEFAULT not in files:
        raise _without_default(f"`{display(directory / MORE_TEMPLATES)}`", files)
    return ChatTemplate(read_text(files[_DEFAULT]), files[_DEFAULT])


def _stated(file: Path) -> ChatTemplate | None:
    """The template in a JSON file: a string, named strings, or a list of ``name`` and ``template``."""
    value = read_json(file).get(_KEY) if file.is_file() else None
    try:
        named = {item["name"]: item["template"] for item in value} if isinstance(value, list) else value
    except (TypeError, KeyError):
        raise _wrong_kind(file) from None
    if isinstance(named, Mapping):
        if _DEFAULT not in named:
            raise _without_default(f"`{_KEY}` in `{display(file)}`", named)
        named = named[_DEFAULT]
    if named is None or named == "":
        return None
    if not isinstance(named, str):
        raise _wrong_kind(file)
    return ChatTemplate(named, file, _KEY)


def _without_default(where: str, names: Mapping[str, object]) -> TemplateError:
    listed = ", ".join(f"`{name}`" for name in sorted(map(str, names)))
    return _unusable(
        f"{where} has chat templates named {listed} and none named `{_DEFAULT}`",
        f"rename the template to use to `{_DEFAULT}`",
    )


def _wrong_kind(file: Path) -> TemplateError:
    return _unusable(
        f"`{_KEY}` in `{display(file)}` is neither text nor a list of `name` and `template`",
        "download the file again",
    )


def _unusable(message: str, hint: str, line: int | None = None) -> TemplateError:
    error = TemplateError(message, code="MM730", hint=hint)
    error.line = line
    return error


def render(
    template: ChatTemplate | str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
) -> str:
    """Render ``messages`` to a prompt with ``template``.

    Args:
        template: The template or its Jinja source.
        messages: Turns with ``role`` and ``content``; content is a string or a list of parts.
        special_tokens: ``bos_token``, ``eos_token`` and so on, as in ``tokenizer.special_tokens_map``.
        add_generation_prompt: Whether the prompt ends with the start of the answer.

    Raises:
        TemplateError: MM730, the template is not valid Jinja, fails on these messages, or exceeds the limits of
            :mod:`mmbuild.base.sandbox`.
    """
    request = {
        "messages": list(messages),
        "special_tokens": dict(special_tokens),
        "add_generation_prompt": add_generation_prompt,
    }
    return str(_run_bounded(template, rendered, request))


def content_form(template: ChatTemplate | str, special_tokens: Mapping[str, str], image_token: str) -> Form:
    """The form of content that ``template`` takes for a question about an image.

    Detected by rendering both forms: a prompt must contain one image token and the question.

    Args:
        template: The template or its Jinja source.
        special_tokens: As for :func:`render`.
        image_token: The token for an image in a prompt.

    Returns:
        ``parts``: a list, ``[{"type": "image"}, {"type": "text", "text": ...}]``; ``text``: a string that contains
        ``image_token``.

    Raises:
        TemplateError: MM730, neither form gives such a prompt; the message quotes both failures. Also as
            :func:`render`.
    """
    request = {"special_tokens": dict(special_tokens), "image_token": image_token}
    form: Form = _run_bounded(template, detected_form, request)
    return form


def _run_bounded(template: ChatTemplate | str, work: _Work, requested: Mapping[str, Any]) -> Any:
    """Run the work with limits, because a template is an untrusted program."""
    text = template.text if isinstance(template, ChatTemplate) else template
    # Special tokens of transformers may be objects.
    request = json.dumps(requested, default=str)
    value, failure = _outcome(text, work, request)
    if failure is not None:
        raise _refused(template, *failure)
    return value


_MESSAGES = {
    "fails": "the chat template fails at {where}: {detail}",
    "form": "the chat template in {where} cannot ask about a picture: {detail}",
    "bounds": "the chat template in {where} {detail}",
}
_FIX = "correct the template, or remove it to use the family's default"


def _refused(template: ChatTemplate | str, message: str, detail: str, line: int | None) -> TemplateError:
    if isinstance(template, ChatTemplate):
        where = template.place(line)
    else:
        where = "the text" if line is None else f"line {line}"
    return _unusable(_MESSAGES[message].format(where=where, detail=detail), _FIX, line)


@lru_cache(maxsize=256)
def _outcome(text: str, work: _Work, request: str) -> tuple[Any, Sequence[Any] | None]:
    """The result and None, or None and the arguments of a :class:`FailingError`.

    Known by the text alone, because models of one family have the same template, and starting a process for it takes
    10 ms in one that has imported torch.
    """
    try:
        value, failure = run_bounded(lambda: _run_reported(text, work, json.loads(request)))
        return value, failure
    except BoundsExceededError as error:
        return None, ("bounds", str(error), None)


def _run_reported(
    text: str, work: _Work, requested: Mapping[str, Any]
) -> tuple[str | None, Sequence[Any] | None]:
    try:
        return work(text, **requested), None
    except FailingError as error:
        return None, error.args
