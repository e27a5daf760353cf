"""Parses ``--set dotted.key=value``: YAML values from the command line that override the recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.diagnostics import Diagnostic
from mmbuild.base.limits import YAML_TEXT
from mmbuild.base.yaml_nodes import Source, Span, YamlNode, diagnostic_at, printable
from mmbuild.base.yaml_parser import comment_at_end, parse, split_lines

_EXTEND = "write a short recipe that extends the other"
_MOST_PARTS = YAML_TEXT.depth
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Override:
    """One ``--set``.

    Attributes:
        key: Dotted key.
        value: Its value; source positions refer to the argument.
    """

    key: str
    value: YamlNode


def parse_overrides(arguments: Sequence[str]) -> tuple[list[Override], list[Diagnostic]]:
    """Parse the arguments of ``--set``, in order."""
    overrides: list[Override] = []
    findings: list[Diagnostic] = []
    for argument in arguments:
        override, problems = _parse(argument)
        findings += problems
        if override is not None:
            overrides.append(override)
    return overrides, findings


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _parse(argument: str) -> tuple[Override | None, list[Diagnostic]]:
    clean = printable(argument)
    if clean != argument:
        at = Span(Source(f"--set {_short(clean)}", (clean,)), 1, 1)
        return None, [
            diagnostic_at(
                "MM123", f"`{_short(clean)}` is not UTF-8 text", at, hint="set the terminal to UTF-8"
            )
        ]
    key, equals, text = argument.partition("=")
    source = Source(f"--set {_short(argument)}", split_lines(argument), str(Path.cwd()), trusted=True)
    at = Span(source, 1, 1, max(len(key), 1))
    if not equals or not _KEY.fullmatch(key):
        hint = "write --set KEY=VALUE, such as --set engine.quantization=int8"
        return None, [
            diagnostic_at("MM123", f"`{_short(argument)}` is not KEY=VALUE with a dotted key", at, hint=hint)
        ]
    if key.count(".") >= _MOST_PARTS or len(argument) > YAML_TEXT.length:
        problem = f"has more than {_MOST_PARTS} parts" if key.count(".") >= _MOST_PARTS else "is too long"
        hint = "write --set KEY=VALUE with a key of the recipe; `mmbuild schema` lists them"
        return None, [diagnostic_at("MM123", f"`{key[:60]} ...` {problem}", at, hint=hint)]
    if key == "extends":
        return None, [
            diagnostic_at("MM123", "`extends` cannot be set; it is read with the file", at, hint=_EXTEND)
        ]
    if not text.strip():
        return Override(key, YamlNode(None, at, at)), []
    # Spaces in place of the key preserve the columns of the argument.
    value = " " * (len(key) + 1) + text
    comment = comment_at_end(value)
    if comment is not None:
        return None, [_comment(source, value, comment)]
    node, findings = parse(source, value)
    if node is None:
        return None, findings
    return Override(key, YamlNode(node.value, node.span, at)), findings


def _comment(source: Source, text: str, start: int) -> Diagnostic:
    """MM123: YAML would drop the end of a value that a shell has passed on."""
    before = split_lines(text[:start])
    rest = text[start:].strip()
    return diagnostic_at(
        "MM123",
        f"YAML reads `{_short(rest)}` as a comment, which is not part of the value",
        Span(source, len(before), len(before[-1]) + 1, max(len(split_lines(rest)[0]), 1)),
        hint="remove it, or quote the value within the shell's quotes: --set 'verify.prompts=[\"what is #1 ?\"]'",
    )
