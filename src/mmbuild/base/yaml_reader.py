"""Parses untrusted YAML into plain data within limits, and refuses invalid input with one sentence.

A document of a few hundred bytes can expand to more data than fits in memory (aliases of aliases), or to a value
that contains itself; both are detected before anything traverses the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import yaml

from mmbuild.base.limits import Limit

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlProblemError(ValueError):
    """The problem with the text, as the end of a sentence whose subject is the file."""


def parse_yaml(data: bytes, limit: Limit) -> Any:
    """Parse the YAML document ``data`` (UTF-8) into dicts, lists, strings, numbers, booleans and None.

    Dates become strings in ISO 8601.

    Raises:
        YamlProblemError: It is not YAML, contains anything but plain data, or exceeds ``limit``.
    """
    text = _yaml_text(data, limit)
    try:
        _check_events(text, limit)
        value = yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise YamlProblemError(f"is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # For example a number with thousands of digits, a list as a key, or month 13.
        raise YamlProblemError(f"contains a value that cannot be read: {str(error)[:200]}") from None
    _check_expanded(value, limit)
    return _plain(value)


def _yaml_text(data: bytes, limit: Limit) -> str:
    """Decode ``data`` as text.

    Raises:
        YamlProblemError: It is larger than ``limit``, or not UTF-8.
    """
    if len(data) > limit.size:
        raise YamlProblemError(f"is larger than {limit.size:,} bytes, the limit for {limit.kind}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlProblemError(f"is not UTF-8 text (byte {error.start})") from None


def _check_events(text: str, limit: Limit) -> None:
    """Check the document's events without building values: libyaml parses iteratively, but composes recursively.

    Raises:
        YamlProblemError: It is nested too deeply, or contains too many values or too long a text.
        yaml.YAMLError: It is not YAML.
    """
    depth = values = 0
    for event in yaml.parse(text, Loader=_LOADER):
        values += isinstance(event, yaml.NodeEvent)
        if values > limit.values:
            raise YamlProblemError(f"contains more than {limit.values:,} values, the limit for {limit.kind}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limit.depth:
                raise YamlProblemError(f"is nested deeper than {limit.depth} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > limit.length:
            raise YamlProblemError(f"contains a text of more than {limit.length:,} characters")


def _check_expanded(value: Any, limit: Limit) -> None:
    """Count every value as often as it is reached, so that neither aliases nor cycles exceed the limit."""
    level, count, depth = [value], 0, 0
    while level:
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, Mapping) else item if isinstance(item, list) else ()
            below += children
            if count + len(below) > limit.values:
                raise YamlProblemError("expands aliases without end; write the data out instead")
        count += len(below)
        depth += 1
        if below and depth > limit.depth:
            raise YamlProblemError(f"is nested deeper than {limit.depth} levels, aliases expanded")
        level = below


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise YamlProblemError(f"contains a value of type {type(value).__name__}, which is not plain data")
