"""Hooks of MkDocs for the documentation site (``make docs``); a link that leads nowhere ends the build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file by its path

from site_links import PAGES, PLACE, ROOT, BrokenLinkError, rewrite, titles


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository that lie outside docs/."""
    for page in PAGES:
        content = (ROOT / page).read_text(encoding="utf-8")
        files.append(File.generated(config, f"{PLACE}/{Path(page).name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite links that lead out of docs/, and those whose text is a file name."""
    try:
        return rewrite(markdown, page.file.src_uri, titles(config["nav"]))
    except BrokenLinkError as error:
        raise PluginError(str(error)) from error
