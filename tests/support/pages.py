"""Markdown pages of the repository: their fenced blocks, and the commands in console blocks."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
_COMMAND = re.compile(
    r"""(?:^(?:\$ )?|&& |^ *(?:- )?(?:run|entrypoint): |^ *- |^ExecStart=)(?:\S*/)?mmbuild (.*)"""
)
_FENCE = re.compile(r"^```(\S*)(?: title=(\S+))?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page and first line, its language, the file name of `title=`, its text."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        yield Block(page, line, match[1], match[2], match[3])


def session(block: Block) -> list[tuple[str, str]]:
    """The commands after `$ ` of a console block, each with the output shown below it; `\\` continues a command."""
    parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n", block.text, flags=re.M)
    assert parts[0] == "", f"{block.name}: text before the first `$ `"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def mmbuild_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Location and words of every line that starts mmbuild in a shell, workflow, unit or Dockerfile."""
    for block in blocks(page):
        lines = block.text.splitlines()
        for at, line in enumerate(lines):
            where = f"{block.page.relative_to(ROOT)}:{block.line + at}"
            if block.language == "console" and not line.startswith("$ "):
                continue  # output
            if block.language == "dockerfile" and (listed := re.match(r'CMD (\["mmbuild".*\])', line)):
                yield where, json.loads(listed[1])[1:]
            elif found := _COMMAND.search(line):
                yield where, shell_words(" ".join([found[1].rstrip("\\"), *_continued(lines, at)]))


def _continued(lines: list[str], at: int) -> Iterator[str]:
    """The lines that continue a command: after a backslash, or options on a line of their own in YAML."""
    while at + 1 < len(lines) and (lines[at].endswith("\\") or lines[at + 1].lstrip().startswith("--")):
        at += 1
        yield lines[at].rstrip("\\")


def shell_words(line: str) -> list[str]:
    """The words of the first command of ``line``, with the words of `${NAME:+words}`."""
    text = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", line)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: not set(word) <= set("|&;<>"), lexer))


def shorthands(page: Path) -> Iterator[list[str]]:
    """The words of inline code with an option and without a program, such as `plan --locked`."""
    text = re.sub(_FENCE, "", page.read_text("utf-8"))
    for code in re.findall(r"`([a-z][a-z0-9-]* [^`\n]*?--[a-z][^`\n]*)`", text):
        yield code.split()
