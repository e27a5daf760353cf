"""Rows of ``benchmarks.against_vllm``: their file, which pairs are still missing, and the table with ratios."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OURS, VLLM = "ours", "vllm"


@dataclass(frozen=True, slots=True)
class Row:
    """What one side took for one batch.

    Attributes:
        command: Id of the command that measured it. Only rows of one command are compared.
        date: Day of the command.
        machine: The GPU, or the cores.
        software: Versions of what was measured.
        side: ``ours`` or ``vllm``.
        format: Name in :data:`benchmarks.against_vllm.FORMATS`.
        batch: Number of requests.
        prompt_tokens: Tokens of one prompt, visual features included.
        ids: Digest of the token ids of all prompts.
        ttft_ms: From the PIL pictures to the first token of all requests.
        step_ms: Time per further token.
        pixels_ms: From preprocessed pictures to the first token; None if the side cannot start there.
    """

    command: str
    date: str
    machine: str
    software: str
    side: str
    format: str
    batch: int
    prompt_tokens: int
    ids: str
    ttft_ms: float
    step_ms: float
    pixels_ms: float | None = None


def read(path: Path) -> list[Row]:
    """All rows of a file, oldest first; none if there is no file.

    A command that is killed may leave half a line at the end, which is ignored.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Row(**json.loads(line)) for line in lines if line.endswith("}")]


def append(path: Path, row: Row) -> None:
    """Append one row. If the file ends with half a line, the row starts on the next one."""
    with path.open("a+b") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        start = "\n" if file.read(1) not in (b"", b"\n") else ""
        file.write(f"{start}{json.dumps(asdict(row))}\n".encode())


Comparison = tuple[str, int, str]
"""Format, batch and command."""


def comparisons(rows: Iterable[Row]) -> dict[Comparison, dict[str, Row]]:
    """The rows of each format, batch and command by side."""
    found: dict[Comparison, dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.format, row.batch, row.command), {})[row.side] = row
    return found


def missing(
    rows: Iterable[Row], sides: Mapping[str, Sequence[str]], batches: Sequence[int]
) -> dict[str, list[int]]:
    """Batches that no single command has measured on all sides, by format.

    Args:
        rows: Known rows.
        sides: Sides to measure, by format.
        batches: Batches to measure.
    """
    complete = {
        (form, batch)
        for (form, batch, _), by_side in comparisons(rows).items()
        if form in sides and set(sides[form]) <= set(by_side)
    }
    found = {form: [batch for batch in batches if (form, batch) not in complete] for form in sides}
    return {form: left for form, left in found.items() if left}


_HEADER = (
    "| format | batch | step | step, vLLM | vLLM / ours | first token | first token, vLLM | vLLM / ours "
    "| first token from pixels | prompt | command |"
)


def table(rows: Sequence[Row], formats: Sequence[str]) -> str:
    """A Markdown table with one line for each format, batch and command, and a list of the commands.

    Args:
        rows: All rows.
        formats: Names of formats in the order of the table.
    """
    found = comparisons(rows)
    ordered = sorted(found, key=lambda key: (formats.index(key[0]), key[1], key[2]))
    lines = [_HEADER, "|---" * (_HEADER.count("|") - 1) + "|"]
    lines += [_line(key, found[key]) for key in ordered]
    return "\n".join([*lines, "", *_commands(rows)])


def _line(key: Comparison, sides: Mapping[str, Row]) -> str:
    def value(side: str, name: str) -> float | None:
        return getattr(sides[side], name) if side in sides else None

    cells = [key[0], str(key[1])]
    for name, digits in (("step_ms", 3), ("ttft_ms", 1)):
        ours, vllm = value(OURS, name), value(VLLM, name)
        cells += [_ms(ours, digits), _ms(vllm, digits), _ratio(vllm, ours)]
    cells += [_ms(value(OURS, "pixels_ms"), 1), _prompt(sides), key[2]]
    return "| " + " | ".join(cells) + " |"


def _ms(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} ms"


def _ratio(above: float | None, below: float | None) -> str:
    return "-" if above is None or not below else f"{above / below:.2f}"


def _prompt(sides: Mapping[str, Row]) -> str:
    """Length of the prompt, and whether both sides got the same token ids."""
    text = " and ".join(map(str, dict.fromkeys(row.prompt_tokens for row in sides.values())))
    if len(sides) < 2:
        return text
    return text + (", same ids" if len({row.ids for row in sides.values()}) == 1 else ", ids differ")


def _commands(rows: Iterable[Row]) -> list[str]:
    """One line for each command: date, machine, software."""
    software: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        software.setdefault((row.command, row.date, row.machine), {})[row.software] = None
    return [
        f"- {command}: {date}, {machine}; {'; '.join(versions)}"
        for (command, date, machine), versions in software.items()
    ]
