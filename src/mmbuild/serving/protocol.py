"""The requests of OpenAI's protocol that are supported. docs/serving.md lists every field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mmbuild.base.json_reader import JsonProblemError, parse_json
from mmbuild.base.limits import SERVED_REQUEST
from mmbuild.serving.errors import ProtocolError

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
}


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


class Message(_Fields):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[Text | Picture, Field(discriminator="type")]] | None = None


class StreamOptions(_Fields):
    """Options of streams."""

    include_usage: bool = False


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(max_length=MOST_STOPS)
]
Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


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


class Chat(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)


class Completion(Generation):
    """The body of ``/v1/completions``."""

    prompt: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)


def parse(body: bytes, kind: type[Generation]) -> Any:
    """Parse a request's body.

    Raises:
        ProtocolError: MM874, it is not JSON, a field is wrong, or one is not supported.
    """
    try:
        content = parse_json(body, SERVED_REQUEST)
    except JsonProblemError as error:
        raise ProtocolError(f"the body is not JSON that is taken: {error}", code="MM874") from None
    if not isinstance(content, dict):
        raise ProtocolError("the body is not a JSON object", code="MM874")
    for name, harmless in _NOT_SUPPORTED.items():
        if name in content and content[name] not in harmless:
            raise ProtocolError(f"`{name}` is not supported", code="MM874", hint="leave it out", param=name)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"`{where}`: {first['msg']}", code="MM874", param=where) from None
