"""Hypothesis strategies that damage files: bytes, JSON values, YAML lines and safetensors headers.

Each takes a real file and changes little, so that most mutants come past the first check of their reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

DEEP = 1_500
"""Nesting beyond what Python's own stack takes."""

VALUES = (
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e308",
    "1e999",
    "NaN",
    "-Infinity",
    "100000000000000000",
    "1" + "0" * 400,
    '""',
    '"x"',
    '"float17"',
    '"../../../etc/passwd"',
    '"/dev/zero"',
    '"/"',
    '"-f"',
    r'"\u0000"',
    r'"\ud800"',
    r'"\u001b[2J\n::error::x"',
    f'"{"n" * 5_000}"',
    "[]",
    "[[]]",
    '["x", 1, null]',
    "{}",
    '{"x": {"y": 1}}',
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
)
"""JSON texts, some of which are none, that readers do not expect where they find them."""

SCALARS = (
    *VALUES,
    "~",
    "yes",
    "0o17",
    "1:30",
    "2026-11-29",
    "*base",
    "&base x",
    "!!python/object/apply:os.system [id]",
    "!!binary aGVsbG8=",
    "{a: 1, b: [2]}",
    "[1, 2",
    "'x",
    "|\n  text",
    "\x1b[31mred",
    "\ufeff",
    "${HOME}",
    "{{ 1 }}",
    "\t x",
)
"""What may stand after a key of a YAML file."""


@st.composite
def damaged_bytes(draw: Callable[..., Any], seed: bytes) -> bytes:
    """``seed`` with one to four places changed, cut, doubled or filled with other bytes."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        count = draw(st.sampled_from((1, 2, 8, 100)))
        kind = draw(st.sampled_from(("flip", "cut", "double", "insert", "end")))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + count]
        elif kind == "double":
            data[at:at] = data[at : at + count]
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(_INSERTED))
        elif kind == "end":
            del data[at:]
    return bytes(data)


_INSERTED = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\x1b[2J",
    b'"',
    b"}",
    b"[" * DEEP,
    b"9" * 30,
    b"\xed\xa0\x80",
)


@st.composite
def damaged_json(draw: Callable[..., Any], seed: bytes) -> bytes:
    """The JSON text ``seed`` with one to three values replaced, removed or put under another name."""
    value = json.loads(seed)
    replaced: dict[str, str] = {}
    for number in range(draw(st.integers(1, 3))):
        value = _damaged_value(draw, value, f"@@{number}@@", replaced)
    text = json.dumps(value)
    for mark, raw in replaced.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode()


def _damaged_value(draw: Callable[..., Any], value: Any, mark: str, replaced: dict[str, str]) -> Any:
    places = [place for place in _places(value, ()) if place]
    if not places:
        return value
    *above, last = draw(st.sampled_from(places))
    holder = value
    for part in above:
        holder = holder[part]
    kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "add")))
    if kind == "remove":
        del holder[last]
    elif kind == "rename" and isinstance(holder, dict):
        replaced[mark] = draw(st.sampled_from([text for text in VALUES if text.startswith('"')]))
        holder[mark] = holder.pop(last)
    elif kind == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("x", "", "auto_map", "__class__", "path", "ref")))] = 1
    else:
        replaced[mark] = draw(st.sampled_from(VALUES))
        holder[last] = mark
    return value


def _places(value: Any, place: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    found = [place]
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        found += _places(child, (*place, key))
    return found


@st.composite
def damaged_lines(draw: Callable[..., Any], seed: bytes) -> bytes:
    """A file of JSON lines with one line damaged, doubled or torn."""
    lines = seed.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    forms = (damaged_json, damaged_json, damaged_bytes) if lines[at].startswith(b"{") else (damaged_bytes,)
    lines[at] = draw(draw(st.sampled_from(forms))(lines[at]))
    if draw(st.booleans()):
        lines.append(lines[at])
    return b"\n".join(lines) + draw(st.sampled_from((b"\n", b"")))


@st.composite
def damaged_yaml(draw: Callable[..., Any], seed: bytes) -> bytes:
    """A YAML text with one to three lines given other values, other indentation, or removed."""
    lines = seed.decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key, colon, _ = lines[at].partition(":")
        kind = draw(st.sampled_from(("value", "value", "value", "key", "indent", "remove", "double")))
        if kind == "value":
            lines[at] = f"{key}: {draw(st.sampled_from(SCALARS))}"
        elif kind == "key":
            other = draw(st.sampled_from(("<<", "?", "matrix", "extends", key + "x", "\x1b[2J")))
            lines[at] = f"{other}{colon} x"
        elif kind == "indent":
            lines[at] = draw(st.sampled_from((" ", "   ", "\t", "- "))) + lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif len(lines) > 1:
            del lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


@st.composite
def damaged_header(draw: Callable[..., Any], seed: bytes) -> bytes:
    """A safetensors file with a damaged header, its stated length kept or made right."""
    length = int.from_bytes(seed[:8], "little")
    header, rest = seed[8 : 8 + length], seed[8 + length :]
    damage = draw(st.sampled_from((damaged_json, damaged_json, damaged_bytes)))
    changed = draw(damage(header))
    lengths = (len(changed), len(changed), length, 0, 1, 1 << 40, (1 << 64) - 1)
    stated = draw(st.sampled_from(lengths))
    return stated.to_bytes(8, "little") + changed + draw(st.sampled_from((rest, rest, rest[:-1], b"")))


DAMAGE: Mapping[str, tuple[Callable[[bytes], st.SearchStrategy[bytes]], ...]] = {
    "json": (damaged_json, damaged_json, damaged_bytes),
    "lines": (damaged_lines, damaged_bytes),
    "yaml": (damaged_yaml, damaged_yaml, damaged_bytes),
    "header": (damaged_header, damaged_bytes),
    "bytes": (damaged_bytes,),
}
"""What is done to a file of each form."""


def mutants(form: str, seed: bytes) -> st.SearchStrategy[bytes]:
    """Damaged copies of ``seed``, a file of this form."""
    return st.one_of(*(damage(seed) for damage in DAMAGE[form]))
