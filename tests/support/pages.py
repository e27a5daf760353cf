"""Markdown pages of the repository: their fenced blocks, and the commands in console blocks."""

from __future__ import annotations

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
    """Location and words of every line that starts mmbuild in a `console`, `sh` or untitled block."""
    for block in blocks(page):
        if block.language not in ("console", "sh", ""):
            continue
        for number, line in enumerate(block.text.splitlines(), block.line):
            if re.match(r"(\$ )?(\.venv/bin/)?mmbuild ", line):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                yield f"{block.page.relative_to(ROOT)}:{number}", words[1:]
