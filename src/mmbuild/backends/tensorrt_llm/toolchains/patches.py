"""Edits of somebody else's code, made only where the code is as it was when the edit was written.

``sed`` succeeds where it finds nothing to change, and changes again what it changed before. An edit here does
neither: it is refused where its text is gone, and leaves a file alone that it was made in already.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmbuild.backends.tensorrt_llm.toolchains.model import Edit
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import MODEL_JSON
from mmbuild.schema.tensorrt_llm_versions import ToolchainError


def apply_edit(edit: Edit, directory: Path) -> bool:
    """Make ``edit`` below ``directory``; whether the file changed.

    Raises:
        ToolchainError: MM701, the file or the text that the edit looks for is not there.
    """
    path = directory / edit.file
    try:
        text = read_file(path, MODEL_JSON.size).decode("utf-8")
    except (OSError, FileRefusedError, UnicodeDecodeError) as error:
        raise _moved(edit, f"cannot be read ({error})") from error
    if edit.find not in text and not (edit.replace and edit.replace in text):
        raise _moved(edit, f"has no `{edit.find}`")
    changed = edited_text(edit, text)
    if changed == text:
        return False
    path.write_text(changed, encoding="utf-8")
    return True


def edited_text(edit: Edit, text: str) -> str:
    """``text`` after ``edit``; an edit made before is not made again.

    A text to look for may be part of what replaces it, as where a word becomes a comment: what lies inside such a
    replacement counts as replaced.
    """
    if edit.after is not None:
        return _with_lines(text, edit.find, edit.after)
    assert edit.replace is not None
    pattern = f"{re.escape(edit.replace)}|{re.escape(edit.find)}" if edit.replace else re.escape(edit.find)
    return re.sub(pattern, lambda _: edit.replace or "", text)


def _with_lines(text: str, find: str, line: str) -> str:
    rows = text.split("\n")
    made: list[str] = []
    for number, row in enumerate(rows):
        made.append(row)
        following = rows[number + 1] if number + 1 < len(rows) else None
        if find in row and following != line:
            made.append(line)
    return "\n".join(made)


def _moved(edit: Edit, what: str) -> ToolchainError:
    return ToolchainError(
        f"`{edit.file}` {what}, and an edit of this code needs it: the code is newer or older than the toolchain",
        code="MM701",
        hint="Pin a commit that the toolchain's version was made for: model.code.revision",
    )
