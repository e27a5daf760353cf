"""Links of pages as the documentation site has them: what lies outside docs/ cannot be linked to there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "benchmarks/batch-kernels-h200.md",
)
"""Pages of the repository outside docs/ that are part of the site, below :data:`PLACE`."""
PLACE = "project"
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


class BrokenLinkError(Exception):
    """A link to a file that does not exist."""


def titles(navigation: Any) -> dict[str, str]:
    """Titles of pages in the site's navigation, by path on the site."""
    return dict(_titled(navigation, ""))


def _titled(part: Any, title: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, str):
        yield part, title
    elif isinstance(part, Mapping):
        for name, below in part.items():
            yield from _titled(below, name)
    else:
        for below in part:
            yield from _titled(below, title)


def rewrite(markdown: str, source: str, known: Mapping[str, str]) -> str:
    """Rewrite the links of a page.

    Links to pages of the site get the page's title if their text was a file name. Links to other files become their
    text, followed by the path.

    Args:
        markdown: The page.
        source: Its path on the site.
        known: From :func:`titles`.

    Raises:
        BrokenLinkError: A link leads to nothing.
    """
    own = next((one for one in PAGES if source == f"{PLACE}/{Path(one).name}"), f"docs/{source}")

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), match["target"]))
        if not (ROOT / target).exists():
            raise BrokenLinkError(f"{own}: the link to {match['target']} leads nowhere")
        text, plain = match["text"], match["text"].replace("`", "")
        if target in PAGES:
            inside = f"{PLACE}/{Path(target).name}"
        elif target.startswith("docs/") and target.endswith(".md"):
            inside = target.removeprefix("docs/")
        else:
            return text if target in plain else f"{text} (`{target}`)"
        if plain in (target, match["target"], posixpath.basename(target)):
            text = known.get(inside, text)
        relative = posixpath.relpath(inside, posixpath.dirname(source) or ".")
        return f"[{text}]({relative}{match['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)
