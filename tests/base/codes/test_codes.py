"""Every code that the tool prints has an entry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import mmbuild
from mmbuild.base.codes import codes, lookup, nearest

SOURCE = Path(mmbuild.__file__).parent


def sources() -> str:
    """Return all source text, tables included, except the entries themselves."""
    files = (file for file in SOURCE.rglob("*") if file.suffix in (".py", ".yaml"))
    return "".join(file.read_text("utf-8") for file in files if file.parent.name != "codes")


def test_every_code_in_the_source_is_explained() -> None:
    used = set(re.findall(r"(?:\"|code: )(MM\d{3})\b", sources()))
    assert used, "the pattern finds codes"
    assert sorted(used - set(codes())) == []


def test_every_explained_code_is_used() -> None:
    text = sources()
    assert sorted(code for code in codes() if code not in text) == []


def test_entries_are_complete_sentences_and_codes_are_well_formed() -> None:
    for code, entry in codes().items():
        assert re.fullmatch(r"MM\d{3}", code)
        for part in (entry.symptom, entry.cause, entry.cure):
            assert part.endswith("."), (code, part)


def test_lookup_ignores_case_and_suggests_the_nearest_code() -> None:
    entry = lookup("mm103")
    assert entry is not None
    assert entry.title == "Unknown key"
    assert lookup("MM000") is None
    assert nearest("103") == "MM103"
    assert nearest("MM13") is not None


def test_codes_and_diagnostics_import_no_pydantic_and_no_torch() -> None:
    program = (
        "import sys, mmbuild.base.codes, mmbuild.base.diagnostics as d; mmbuild.base.codes.codes();"
        "print([m for m in ('pydantic', 'torch', 'transformers', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
