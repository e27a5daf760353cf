"""Parses YAML into nodes with source locations. Accepts only plain data, and reports everything surprising.

PyYAML composes YAML 1.1 with libyaml; this module reads the composed nodes instead of constructing values,
so that it can detect duplicate keys, refuse tags other than plain data, and keep the location of every value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import yaml

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.value_hints import foreign_character
from mmbuild.base.yaml_nodes import Source, Span, YamlNode, diagnostic_at

MAX_DEPTH = YAML_TEXT.depth
MAX_NODES = YAML_TEXT.values
MAX_DIGITS = 18
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_TIGHT = re.compile(r"(?P<key>\s*(?:- )?[A-Za-z_]{1,100}:)(?P<value>[^\s/:][^\s]{0,199})\s*$")
# A line that begins with spaces of text processors, or has the wide colon of Chinese and Japanese keyboards.
_FOREIGN = re.compile(
    "(?P<before> *(?:- )?(?:[A-Za-z_]{1,100}(?=\uff1a))?)(?P<sign>[^\\S \t]|[\u200b-\u200f\u2060\ufeff\uff1a])"
)
# What libyaml was parsing at the error. The start of that construct is a better location than the error itself.
_UNCLOSED = {
    "while parsing a flow mapping": (
        "the `{` is not closed, or a comma is missing",
        "close it with `}`, and put commas between its entries",
    ),
    "while parsing a flow sequence": (
        "the `[` is not closed, or a comma is missing",
        "close it with `]`, and put commas between its entries",
    ),
    "while scanning a quoted scalar": ("the quote is not closed", "close it where the text ends"),
}
"""Context of an error -> what is wrong where that begins, and what to do."""
_NOT_DECIMAL = "MM109"
# Tokens that are written in the text; libyaml reports others, such as ends of blocks, after its comments.
_WRITTEN = (
    yaml.ScalarToken,
    yaml.FlowSequenceEndToken,
    yaml.FlowMappingEndToken,
    yaml.AliasToken,
    yaml.AnchorToken,
    yaml.TagToken,
    yaml.ValueToken,
    yaml.BlockEntryToken,
)


def split_lines(text: str) -> tuple[str, ...]:
    """Split text into lines as in YAML 1.1 (section 4.2), without line breaks."""
    return tuple(_BREAK.split(text))


def parse(source: Source, text: str | None = None) -> tuple[YamlNode | None, list[Diagnostic]]:
    """Parse the YAML document of ``source``.

    Args:
        source: The text and its label.
        text: Text to parse instead; must have the same columns (a value within a longer line).

    Returns:
        The root node, or None if the document is empty or invalid, and the findings.
    """
    text = "\n".join(source.lines) if text is None else text
    try:
        too_large = _size_fault(text, source)
        if too_large is not None:
            return None, [too_large]
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        return None, [_syntax(error, source)]
    if root is None:
        return None, [
            diagnostic_at("MM101", "the file is empty", Span(source, 1, 1), hint="`mmbuild init` writes one")
        ]
    reader = _Reader(source)
    node = reader.read(root)
    return node, reader.findings


def comment_at_end(text: str) -> int | None:
    """Index of the comment that a document ends with; None if it has none or is not valid YAML."""
    try:
        ends = [
            token.end_mark.index for token in yaml.scan(text, Loader=_LOADER) if isinstance(token, _WRITTEN)
        ]
    except yaml.YAMLError:
        return None
    end = max(ends, default=0)
    rest = text[end:]
    return end + rest.index("#") if rest.lstrip().startswith("#") else None


def _size_fault(text: str, source: Source) -> Diagnostic | None:
    # Parsing into events is iterative; composing is recursive and could overflow the C stack.
    depth = values = 0
    for event in yaml.parse(text, Loader=_LOADER):
        values += isinstance(event, yaml.NodeEvent)
        if values > MAX_NODES:
            return diagnostic_at(
                "MM110",
                f"the document contains more than {MAX_NODES} values",
                _at(source, event.start_mark),
                hint="split the recipe, and move shared values into a base recipe",
            )
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > YAML_TEXT.length:
            return diagnostic_at(
                "MM110",
                f"the document contains a text of more than {YAML_TEXT.length} characters",
                _at(source, event.start_mark),
                hint="look for an unclosed quote",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return diagnostic_at(
                    "MM110",
                    f"the document is nested deeper than {MAX_DEPTH} levels",
                    _at(source, event.start_mark),
                    hint="a recipe needs five levels; look for unclosed brackets",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _at(source: Source, mark: Any) -> Span:
    if any(line.strip() for line in source.lines[mark.line :]):
        return Span(source, mark.line + 1, mark.column + 1)
    # The parser stopped after the end of the text; show the last line that is not blank.
    last = max((number for number, line in enumerate(source.lines, 1) if line.strip()), default=1)
    return Span(source, last, len(source.lines[last - 1]) + 1)


def _syntax(error: yaml.YAMLError, source: Source) -> Diagnostic:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or str(error).splitlines()[0])
    span = _at(source, mark) if mark is not None else _bad_character(source)
    character = span.excerpt[span.column - 1 : span.column]
    if "but found another document" in problem:
        return diagnostic_at(
            "MM105",
            "the file contains more than one YAML document",
            span,
            hint="write one recipe per file; use `matrix` for variants",
        )
    if character == "\t" or (mark is None and "\t" in span.excerpt):
        return diagnostic_at("MM102", "a tab is used for indentation", span, hint="indent with spaces")
    foreign = _foreign_character(source, span)
    if foreign is not None:
        return foreign
    context = getattr(error, "context", None)
    opened = getattr(error, "context_mark", None)
    if opened is not None and context in _UNCLOSED:
        message, hint = _UNCLOSED[context]
        return diagnostic_at("MM101", message, _at(source, opened), hint=hint)
    tight = _tight_colon(source, span, opened)
    if tight is not None:
        return diagnostic_at(
            "MM101", "a key has no space after its colon", tight, hint=f"write `{_spaced(tight.excerpt)}`"
        )
    if opened is not None and "expected ':'" in problem:  # the error is where the next line begins
        return diagnostic_at(
            "MM101",
            "not valid YAML: this is not `key: value`",
            _at(source, opened),
            hint=_syntax_hint("", ""),
        )
    message = f"{problem} {context}" if context else problem
    return diagnostic_at("MM101", f"not valid YAML: {message}", span, hint=_syntax_hint(problem, character))


def _foreign_character(source: Source, span: Span) -> Diagnostic | None:
    """A space that YAML does not take, or a wide colon, at the line of the error or at the one before."""
    numbers = [number for number in range(span.line, 0, -1) if source.lines[number - 1].strip()][:2]
    for number in numbers:
        found = _FOREIGN.match(source.lines[number - 1])
        if found:
            at = Span(source, number, found.end("before") + 1)
            name = foreign_character(found["sign"])
            where = "a key ends with" if found["sign"] == "\uff1a" else "a line is indented with"
            return diagnostic_at("MM101", f"{where} {name}", at, hint="type the beginning of this line again")
    return None


def _tight_colon(source: Source, span: Span, opened: Any) -> Span | None:
    """The place of `key:value`, which YAML reads as text, if that is the line of the error or the one before it."""
    candidates = [] if opened is None else [opened.line + 1]
    candidates += [number for number in range(span.line - 1, 0, -1) if source.lines[number - 1].strip()][:1]
    for number in candidates:
        if number > len(source.lines):
            continue
        found = _TIGHT.match(source.lines[number - 1])
        if found:
            return Span(source, number, found.end("key") + 1)
    return None


def _spaced(line: str) -> str:
    found = _TIGHT.match(line)
    assert found is not None
    return f"{found['key'].strip()} {found['value'].strip()}"


def _syntax_hint(problem: str, character: str) -> str:
    if "mapping values are not allowed" in problem:
        return "quote a value that contains `: `, and check the indentation of this line"
    if character in ("@", "`", "%"):
        return f"quote a value that begins with `{character}`"
    if "undefined alias" in problem:
        return "quote a value that begins with `*`"
    return "check quotes, brackets and indentation here and on the line before"


def _bad_character(source: Source) -> Span:
    for number, line in enumerate(source.lines, 1):
        for column, character in enumerate(line, 1):
            if not (character.isprintable() or character == "\t"):
                return Span(source, number, column)
    return Span(source, 1, 1)


@dataclass(slots=True)
class _Reader:
    """Converts composed YAML nodes to :class:`YamlNode`, and collects findings."""

    source: Source
    findings: list[Diagnostic] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)
    _count: int = 0

    def read(self, node: yaml.Node, key: Span | None = None) -> YamlNode:
        span = self._span(node)
        self._count += 1
        if id(node) in self._open or self._count > MAX_NODES:
            if self._count <= MAX_NODES + 1 or id(node) in self._open:
                self._report("MM110", "aliases expand without end", span, "write the data out instead")
            self._count = max(self._count, MAX_NODES + 1)
            return YamlNode(None, span, key)
        self._open.add(id(node))
        try:
            return YamlNode(self._value(node, span), span, key)
        finally:
            self._open.discard(id(node))

    def _value(self, node: yaml.Node, span: Span) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return tuple(self.read(child) for child in node.value)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, span)
        return self._not_plain(node.tag, span)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, YamlNode]:
        own: dict[str, YamlNode] = {}
        merged: dict[str, YamlNode] = {}
        merge: Span | None = None
        for key_node, value_node in node.value:
            at = self._span(key_node)
            if key_node.tag == f"{_TAG}merge" and merge is not None:
                message = (
                    f"key `<<` is written twice, first on line {merge.line}: readers take one or the other"
                )
                self._report(
                    "MM104", message, at, "merge several mappings as one list: `<<: [*a, *b]`", path="<<"
                )
            elif key_node.tag == f"{_TAG}merge":
                merge = at
                self._merge(value_node, merged)
            elif not isinstance(key_node, yaml.ScalarNode):
                self._report(
                    "MM106", "a key must be a word, not a list or a mapping", at, "write `key: value`"
                )
            elif key_node.value in own:
                first = own[key_node.value].key
                line = first.line if first is not None else 0
                message = f"key `{key_node.value}` is written twice, first on line {line}"
                sections = isinstance(value_node, yaml.MappingNode) and isinstance(
                    own[key_node.value].value, dict
                )
                hint = (
                    f"move all its keys below one `{key_node.value}:`" if sections else "keep one of the two"
                )
                self._report("MM104", message, at, hint, path=key_node.value)
            else:
                own[key_node.value] = self.read(value_node, at)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, merged: dict[str, YamlNode]) -> None:
        # `<<: [*a, *b]`: the first mapping that has a key wins (yaml.org/type/merge.html).
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for child in nodes:
            value = self.read(child)
            if isinstance(value.value, dict):
                for key, entry in value.value.items():
                    merged.setdefault(key, entry)
            else:
                self._report("MM106", "`<<` merges mappings only", value.span, "name an anchored mapping")

    def _scalar(self, node: yaml.ScalarNode, span: Span) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "bool":
            return self._surprise(text, "true" if text.lower() in ("yes", "on", "y") else "false", span)
        if kind == "int":
            return self._integer(text, span)
        if kind == "float":
            return self._real(text, span)
        return self._not_plain(node.tag, span)

    def _integer(self, text: str, span: Span) -> int | None:
        if not _DECIMAL.fullmatch(text):
            self._report(
                _NOT_DECIMAL,
                f"YAML 1.1 does not read `{text}` as the decimal number or text it looks like",
                span,
                f"write a plain decimal number, or quote it: `'{text}'`",
            )
            return None
        if len(text.lstrip("+-")) > MAX_DIGITS:
            hint = f"quote it if it is text: `'{text[:20]}...'`"
            self._report(
                "MM113", f"the number has {len(text)} digits, no number here has more than 18", span, hint
            )
            return None
        return int(text.replace("_", ""))

    def _real(self, text: str, span: Span) -> float | None:
        try:
            number = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            self._report(_NOT_DECIMAL, f"YAML 1.1 reads `{text}` as base 60", span, f"quote it: `'{text}'`")
            return None
        if not isfinite(number):
            self._report(
                "MM107", f"`{text}` is not a finite number", span, "write a number, or leave the key out"
            )
            return None
        return number

    def _surprise(self, text: str, meaning: str, span: Span) -> None:
        self._report(
            "MM108",
            f"YAML 1.1 reads `{text}` as `{meaning}`",
            span,
            f"write `{meaning}` for a boolean, or quote it for text: `'{text}'`",
        )

    def _not_plain(self, tag: str, span: Span) -> None:
        name = tag.replace(_TAG, "!!")
        self._report(
            "MM106", f"`{name}` is not plain data", span, "remove the tag; recipes contain only plain data"
        )

    def _report(self, code: str, message: str, span: Span, hint: str, *, path: str = "") -> None:
        self.findings.append(diagnostic_at(code, message, span, path=path, hint=hint))

    def _span(self, node: yaml.Node) -> Span:
        start, end = node.start_mark, node.end_mark
        width = (
            end.column - start.column if isinstance(node, yaml.ScalarNode) and end.line == start.line else 1
        )
        return Span(self.source, start.line + 1, start.column + 1, max(width, 1))
