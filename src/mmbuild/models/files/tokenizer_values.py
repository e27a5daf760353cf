"""Settings in ``tokenizer_config.json`` and ``special_tokens_map.json`` that transformers (5.10 to 5.17) cannot load.

Only what fails for every tokenizer is found; transformers ignores the rest, or takes any value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Named special tokens, in the order in which transformers adds missing ones."""
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_TOKEN = "a special token is a text, or a section with `__type: AddedToken`"
_SIDES = ("left", "right")


def config_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of ``tokenizer_config.json`` that cannot be loaded, each with the reason."""
    for name in NAMED:
        if config.get(name) is not None and not _is_token(config[name]):
            yield name, _TOKEN
    for name, value in config.items():
        if isinstance(value, dict) and value.get("__type") == "AddedToken":
            yield from ((name, problem) for problem in _added_problems(value))
    yield from _extra_problems(config.get("extra_special_tokens"))
    yield from _plain_problems(config)
    if "added_tokens_decoder" in config:
        yield from _decoder_problems(config["added_tokens_decoder"])


def map_problems(names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of ``special_tokens_map.json`` that cannot be loaded, each with the reason."""
    for name, value in names.items():
        if isinstance(value, dict):
            own = {key: item for key, item in value.items() if key != "special"}  # transformers says true
            yield from ((name, problem) for problem in _added_problems(own))
        elif name in NAMED and value is not None and not isinstance(value, str):
            yield name, "a special token is a text, or a section with its `content`"


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and value.get("__type") == "AddedToken")


def _added_problems(token: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a token that has options."""
    if "content" in token and not isinstance(token["content"], str):
        yield "its `content` must be a text"
    for flag in _FLAGS:
        if flag in token and not isinstance(token[flag], bool):
            yield f"its `{flag}` must be true or false"


def _extra_problems(extra: Any) -> Iterator[tuple[str, str]]:
    name = "extra_special_tokens"
    if extra is None:
        return
    if not isinstance(extra, list | dict):
        yield name, "it must be a list of tokens, or tokens by name"
    elif not all(map(_is_token, extra.values() if isinstance(extra, dict) else extra)):
        yield name, _TOKEN


def _plain_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    length = config.get("model_max_length")
    if length is not None and not isinstance(length, int | float):
        yield "model_max_length", "it must be a number"
    kind = config.get("tokenizer_class")
    if kind is not None and not isinstance(kind, str):
        yield "tokenizer_class", "it must be the name of a class"
    for name in ("padding_side", "truncation_side"):
        if name in config and config[name] not in _SIDES:
            yield name, "it must be `left` or `right`"
    if not isinstance(config.get("split_special_tokens", False), bool):
        yield "split_special_tokens", "it must be true or false"


def _decoder_problems(decoder: Any) -> Iterator[tuple[str, str]]:
    name = "added_tokens_decoder"
    if not isinstance(decoder, dict):
        yield name, "it must be a section of tokens by id"
        return
    for number, token in decoder.items():
        if not number.lstrip("-").isdecimal() or not isinstance(token, dict):
            yield name, "it must be a section of tokens by id, each a section with its `content`"
            return
        for problem in _added_problems(token):
            yield name, f"of token {number}, {problem}"
            return
