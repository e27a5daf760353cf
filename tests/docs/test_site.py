"""The documentation site has every page of docs/, and the pages of the repository that it names."""

import yaml

from support.pages import ROOT

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def pages(part):
    if isinstance(part, str):
        yield part
    for one in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from pages(one)


def test_every_page_is_in_the_navigation_once():
    own = [page for page in pages(SITE["nav"]) if not page.startswith("project/")]
    written = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(own) == sorted(written)


def test_pages_of_the_repository_are_there():
    hook = (ROOT / "tools" / "docs_site.py").read_text("utf-8")
    named = [page.removeprefix("project/") for page in pages(SITE["nav"]) if page.startswith("project/")]
    for name in named:
        (path,) = [ROOT / one for one in (name, f"benchmarks/{name}") if (ROOT / one).is_file()]
        assert f'"{path.relative_to(ROOT)}"' in hook


def test_nothing_is_loaded_from_elsewhere_and_links_are_checked():
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False
