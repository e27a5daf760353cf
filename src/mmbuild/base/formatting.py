"""Formats numbers for display."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Format bytes: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def elapsed_text(seconds: float) -> str:
    """Format a running time, which changes every second: ``40 s``, ``3 min 5 s``, ``2 h 0 min 7 s``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min {rest} s"


def estimate_text(seconds: float) -> str:
    """Format an approximate duration: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
