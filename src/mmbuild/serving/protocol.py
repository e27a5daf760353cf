"""The requests of OpenAI's protocol that are supported. docs/serving.md lists every field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SERVED_REQUEST
from mmbuild.serving.errors import ProtocolError

_SHOWN = 300  # characters of a message, which may quote the request
MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS, MOST_MESSAGES = 16, 4, 20, 1000

# Fields that would change the answer, with the values that change nothing.
_NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "use_beam_search": (None, False),
    # of vLLM and SGLang
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "length_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "min_tokens": (None, 0),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "logits_processors": (None, []),
    "include_stop_str_in_output": (None, False),
    "no_stop_trim": (None, False),
    "skip_special_tokens": (None, True),
    "add_special_tokens": (None, True),
    "truncate_prompt_tokens": (None,),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "return_token_ids": (None, False),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "regex": (None,),
    "ebnf": (None,),
    "json_schema": (None,),
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "documents": (None, []),
    "mm_processor_kwargs": (None, {}),
}

# The same of a message.
_NOT_SUPPORTED_IN_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "tool_calls": (None, []),
    "function_call": (None,),
    "audio": (None,),
    "prefix": (None, False),  # of Mistral and DeepSeek: continue this message
}

MOST_TEXT = 1_000_000
"""Characters of all messages, or of a prompt. A context of 128,000 tokens has half as many."""


class _Fields(BaseModel):
    # Fields without an effect on answers (user, metadata, store, ...) are ignored, as by other servers.
    model_config = ConfigDict(extra="ignore", strict=True)


class Text(_Fields):
    """A part of a message: text."""

    type: Literal["text"]
    text: str


class Url(_Fields):
    """Where a picture is."""

    url: str
    detail: str | None = None


class Picture(_Fields):
    """A part of a message: a picture."""

    type: Literal["image_url"]
    image_url: Url


_Part = Annotated[Text | Picture, Field(discriminator="type")]
# By the kind of value that was sent: else the errors of both would be reported.
_Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[_Part], Tag("parts")],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "string"),
]


class Message(_Fields):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Content | None = None


class StreamOptions(_Fields):
    """Options of streams."""

    include_usage: bool = False


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(max_length=MOST_STOPS)
]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Generation(_Fields):
    """What chat and plain completions have in common."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = Field(None, ge=0, lt=1 << 62)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None

    def texts(self) -> Iterator[str]:
        """What the model would read."""
        raise NotImplementedError


class Chat(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    def texts(self) -> Iterator[str]:
        """What the model would read."""
        for message in self.messages:
            if isinstance(message.content, str):
                yield message.content
            else:
                yield from (part.text for part in message.content or () if isinstance(part, Text))


class Completion(Generation):
    """The body of ``/v1/completions``."""

    prompt: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    def texts(self) -> Iterator[str]:
        """What the model would read."""
        yield from self.prompt


def parse(body: bytes, kind: type[Generation]) -> Any:
    """Parse a request's body.

    Raises:
        ProtocolError: MM874, it is not JSON, a field is wrong, or one is not supported; MM876, it has too much text.
    """
    try:
        content = parse_json(body, SERVED_REQUEST)
    except JsonProblemError as error:
        raise ProtocolError(f"the body is not JSON that is taken: {error}", code="MM874") from None
    if not isinstance(content, dict):
        raise ProtocolError("the body is not a JSON object", code="MM874")
    _require_supported(content, _NOT_SUPPORTED)
    messages = content.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        _require_supported(message, _NOT_SUPPORTED_IN_MESSAGES, f"messages.{number}.")
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = _place(content, first["loc"], missing=first["type"] == "missing")
        raise ProtocolError(f"`{where}`: {first['msg'][:_SHOWN]}", code="MM874", param=where) from None
    if sum(map(len, request.texts())) > MOST_TEXT:
        raise ProtocolError(
            f"the request has more than {MOST_TEXT:,} characters of text",
            code="MM876",
            hint="shorten the prompt",
            status=413,
        )
    return request


def _require_supported(content: Any, table: Mapping[str, tuple[Any, ...]], where: str = "") -> None:
    for name, harmless in table.items():
        if isinstance(content, dict) and name in content and content[name] not in harmless:
            param = where + name
            raise ProtocolError(f"`{param}` is not supported", code="MM874", hint="leave it out", param=param)


def _place(content: Any, location: Sequence[int | str], *, missing: bool) -> str:
    """The field that an error is about; pydantic's location also names the kinds of value that were considered."""
    parts: list[str] = []
    for part in location:
        found = (
            part in content if isinstance(content, dict) else isinstance(content, list) and part != "parts"
        )
        if found:
            content = content[part]
            parts.append(str(part))
    return ".".join([*parts, str(location[-1])] if missing else parts)
