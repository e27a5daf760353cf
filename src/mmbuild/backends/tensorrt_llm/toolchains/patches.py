"""Edits of third-party code, applied only if the code is unchanged since the edit was written.

``sed`` succeeds even if nothing matches, and applies the same change twice. Edits here do neither: they fail if their
text is missing, and leave an already edited file unchanged.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmbuild.backends.tensorrt_llm.toolchains.model import Edit
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import MODEL_JSON
from mmbuild.schema.tensorrt_llm_versions import ToolchainError


def apply_edit(edit: Edit, directory: Path) -> bool:
    """Apply ``edit`` below ``directory``; returns whether the file changed.

    Raises:
        ToolchainError: MM701, the file or the text to replace is missing.
    """
    path = directory / edit.file
    try:
        text = read_file(path, MODEL_JSON.size).decode("utf-8")
    except (OSError, FileRefusedError, UnicodeDecodeError) as error:
        raise _moved(edit, f"cannot be read ({error})") from error
    if edit.find not in text and not (edit.replace and edit.replace in text):
        raise _moved(edit, f"does not contain `{edit.find}`")
    changed = edited_text(edit, text)
    if changed == text:
        return False
    path.write_text(changed, encoding="utf-8")
    return True


def edited_text(edit: Edit, text: str) -> str:
    """``text`` with ``edit`` applied; idempotent.

    The replacement may contain the searched text, for example when a word is commented out: occurrences inside an
    existing replacement are left alone.
    """
    if edit.after is not None:
        return _with_lines(text, edit.find, edit.after)
    assert edit.replace is not None
    pattern = f"{re.escape(edit.replace)}|{re.escape(edit.find)}" if edit.replace else re.escape(edit.find)
    return re.sub(pattern, lambda _: edit.replace or "", text)


def _with_lines(text: str, find: str, line: str) -> str:
    rows = text.split("\n")
    result: list[str] = []
    for number, row in enumerate(rows):
        result.append(row)
        following = rows[number + 1] if number + 1 < len(rows) else None
        if find in row and following != line:
            result.append(line)
    return "\n".join(result)


def _moved(edit: Edit, problem: str) -> ToolchainError:
    return ToolchainError(
        f"`{edit.file}` {problem}, so its edit cannot be applied: the code does not match the toolchain's version",
        code="MM701",
        hint="pin a commit that matches the toolchain's version in model.code.revision",
    )
