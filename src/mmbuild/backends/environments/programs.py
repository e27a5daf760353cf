"""Checks for programs on PATH."""

from __future__ import annotations

import shutil

from mmbuild.base.checks import Check


def program_check(name: str, *, needed: bool, why: str, hint: str) -> Check:
    """Checks that a program is on PATH; a missing program fails if ``needed``, else warns."""
    path = shutil.which(name)
    if path is not None:
        return Check(name, "ok", path)
    return Check(name, "fail" if needed else "warn", "not found", "on PATH", why, hint)
