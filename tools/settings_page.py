"""The tables of docs/generation-settings.md, from mmbuild/models/files/generation_settings.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmbuild.models.files.generation_fields import Field, fields
from toolchain_tables import replace_table

EFFECTS = ("obeyed", "beams", "reported", "none")


def with_fields(page: str) -> str:
    """``page`` with what stands between the marks of each table replaced.

    Raises:
        ValueError: A mark is missing.
    """
    for effect in EFFECTS:
        page = replace_table(page, effect, _rows(effect), "docs/generation-settings.md")
    return page


def _rows(effect: str) -> Iterator[Sequence[str]]:
    yield ["field", "what it does, or why it is not applied"]
    for row in fields().values():
        if row.effect == effect:
            yield [f"`{row.name}`", _meaning(row)]


def _meaning(row: Field) -> str:
    limits = [f"only `{value}`" for value in row.values or ()]
    limits += ["only for engines that search beams"] if row.beams_only else []
    return f"{row.why} ({', '.join(limits)})" if limits else row.why
