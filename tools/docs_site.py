"""Hooks of MkDocs for the documentation site (``make docs``): what lies outside docs/ cannot be linked to there.

Links to Markdown pages of the repository that are part of the site (``PAGES``) go to them; links to other files
become their text, followed by the path. A link to something that does not exist ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benchmarks/RESULTS.md",
    "benchmarks/batch-kernels-h200.md",
)
_PLACE = "project"
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository that lie outside docs/."""
    for page in PAGES:
        content = (ROOT / page).read_text(encoding="utf-8")
        files.append(File.generated(config, f"{_PLACE}/{Path(page).name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that lead out of docs/."""
    source = page.file.src_uri
    own = next((one for one in PAGES if source == f"{_PLACE}/{Path(one).name}"), f"docs/{source}")

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), match["target"]))
        if not (ROOT / target).exists():
            raise PluginError(f"{own}: the link to {match['target']} leads nowhere")
        if target in PAGES:
            inside = f"{_PLACE}/{Path(target).name}"
        elif target.startswith("docs/") and target.endswith(".md"):
            inside = target.removeprefix("docs/")
        else:
            text = match["text"]
            return text if target in text.replace("`", "") else f"{text} (`{target}`)"
        relative = posixpath.relpath(inside, posixpath.dirname(source) or ".")
        return f"[{match['text']}]({relative}{match['anchor'] or ''})"

    return _LINK.sub(rewritten, markdown)
