"""Table of transformers' generation settings: how mmbuild handles each field of ``GenerationConfig``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Form:
    """A type of value.

    Attributes:
        fits: Checks a value, given the size of the vocabulary (None if unknown).
        expected: Description of the type.
    """

    fits: Callable[[Any, int | None], bool]
    expected: str


def _is_id(value: Any) -> bool:
    """Whether ``value`` is an integer that a tensor can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _known(value: Any, vocab_size: int | None) -> bool:
    return _is_id(value) and value >= 0 and (vocab_size is None or value < vocab_size)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all(value: Any, fits: Callable[[Any], bool], *, empty: bool = False) -> bool:
    return isinstance(value, list) and (empty or bool(value)) and all(fits(item) for item in value)


def _token_ids(value: Any, _: int | None) -> bool:
    return _is_id(value) or _all(value, _is_id, empty=True)


def _forced(value: Any, vocab_size: int | None) -> bool:
    return _known(value, vocab_size) or _all(value, lambda item: _known(item, vocab_size))


def _words(value: Any, vocab_size: int | None) -> bool:
    return _all(value, lambda word: _all(word, lambda item: _known(item, vocab_size)))


def _biases(value: Any, vocab_size: int | None) -> bool:
    def biased(pair: Any) -> bool:
        # transformers rejects id 0 here, and numbers without a decimal point.
        ids = isinstance(pair, list) and len(pair) == 2 and pair[0]
        return isinstance(pair[1], float) and _all(ids, lambda item: _known(item, vocab_size) and item > 0)

    return _all(value, lambda pair: isinstance(pair, list) and len(pair) == 2 and biased(pair))


def _penalty(value: Any, _: int | None) -> bool:
    # 1 has no effect and may be an integer; any other number must be a float.
    return _is_number(value) and (value == 1 or (isinstance(value, float) and value > 0))


def _converted(value: Any, _: int | None) -> bool:
    """Whether transformers makes a tensor of it, although nothing reads it."""
    return _is_small(value) or _all(value, _is_small, empty=True)


def _is_small(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and -_INT64 <= value < _INT64)


def _strings(value: Any, _: int | None) -> bool:
    return _is_text(value) or _all(value, _is_text)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


FORMS: Mapping[str, Form] = {
    "token_ids": Form(_token_ids, "a token id, a list of token ids, or null"),
    "any_token_id": Form(lambda value, _: _is_id(value), "a token id"),
    "token_id": Form(_known, "a token id of the vocabulary"),
    "forced": Form(_forced, "a token id of the vocabulary or a list of them"),
    "unread_id": Form(_converted, "a token id, even though nothing reads it"),
    "padding": Form(lambda value, _: _is_small(value), "a token id"),
    "tokens": Form(lambda value, _: _all(value, _is_id, empty=True), "a list of token ids"),
    "words": Form(_words, "a list of lists of token ids of the vocabulary, none of them empty"),
    "biases": Form(
        _biases, "a list of pairs: token ids of the vocabulary above 0, and a number with a decimal point"
    ),
    "penalty": Form(_penalty, "a number above 0 with a decimal point"),
    "count": Form(lambda value, _: _is_id(value), "a whole number"),
    "at_least_one": Form(lambda value, _: _is_id(value) and value > 0, "a whole number above 0"),
    "number": Form(lambda value, _: _is_number(value), "a number"),
    "compared": Form(lambda value, _: isinstance(value, int | float), "a number"),
    "decay": Form(
        lambda value, _: _all(value, _is_number) and len(value) == 2, "a list of a length and a factor"
    ),
    "flag": Form(lambda value, _: isinstance(value, bool), "true or false"),
    "early_stopping": Form(
        lambda value, _: isinstance(value, bool) or value == "never", "true, false or never"
    ),
    "strings": Form(_strings, "a text or a list of texts, none of them empty"),
}


Effect = Literal["obeyed", "beams", "reported", "none"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of transformers' ``GenerationConfig``; see ``generation_settings.yaml``."""

    name: str
    effect: Effect
    why: str
    form: str | None = None
    neutral: tuple[Any, ...] = ()
    values: tuple[Any, ...] | None = None
    beams_only: bool = False

    def changes(self, value: Any) -> bool:
        """Whether ``value`` has an effect."""
        if value is None or value in self.neutral or (self.form == "tokens" and not value):
            return False
        if self.form == "count":
            return bool(value > 0)
        return self.values is None or value in self.values


@cache
def fields() -> Mapping[str, Field]:
    """The table of fields, by name."""
    return {name: _field(name, **row) for name, row in _table()["fields"].items()}


def _field(name: str, neutral: list[Any] | None = None, values: list[Any] | None = None, **row: Any) -> Field:
    return Field(name, neutral=tuple(neutral or ()), values=None if values is None else tuple(values), **row)


@cache
def dropped_by_config_classes() -> frozenset[str]:
    """Fields that a config class of transformers 5 drops from its section of a ``config.json``."""
    return frozenset(_table()["dropped_by_config_classes"])


@cache
def _table() -> Mapping[str, Any]:
    text = files("mmbuild.models.files").joinpath("generation_settings.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return table
