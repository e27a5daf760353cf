"""The documentation site has every page of docs/, and the pages of the repository that it names."""

import re
from pathlib import Path

import pytest
import yaml

import site_links
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


def test_the_start_page_has_the_titles_and_sections_of_the_navigation():
    start = (ROOT / "docs" / "README.md").read_text("utf-8")
    sections = re.split(r"^## ", start, flags=re.M)[1:]
    assert [section.partition("\n")[0] for section in sections] == [
        title for part in SITE["nav"] for title in part if title != "Start"
    ]
    listed = [
        (f"project/{target.rpartition('/')[2]}" if target.startswith("../") else target, title)
        for section in sections
        for title, target in re.findall(r"\[([^]]+)\]\(([^)]+)\)", section)
    ]
    shown = site_links.titles(SITE["nav"]).items()
    shown = [page for page in shown if page[0] not in ("README.md", "tutorial.md")]
    assert [page for page in listed if page[0] != "tutorial.md"] == shown
    assert not [title for _, title in listed if title.endswith(".md")]


def test_pages_of_the_repository_are_there():
    named = [page for page in pages(SITE["nav"]) if page.startswith("project/")]
    assert named == [f"{site_links.PLACE}/{Path(page).name}" for page in site_links.PAGES]
    assert all((ROOT / page).is_file() for page in site_links.PAGES)


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("ci.md", "[lock.md](lock.md)", "[Pin everything](lock.md)"),
        ("ci.md", "[locks](lock.md#what-is-refused)", "[locks](lock.md#what-is-refused)"),
        ("families/llava.md", "[`recipe.md`](../recipe.md)", "[Recipes](../recipe.md)"),
        ("README.md", "[Security](../SECURITY.md)", "[Security](project/SECURITY.md)"),
        ("project/SECURITY.md", "[docs/limits.md](docs/limits.md)", "[Limits](../limits.md)"),
        (
            "ci.md",
            "[workflow](../.github/workflows/recipes.yml)",
            "workflow (`.github/workflows/recipes.yml`)",
        ),
        ("ci.md", "[src/mmbuild](../src/mmbuild)", "src/mmbuild"),
        ("ci.md", "[outside](https://example.com/a.md)", "[outside](https://example.com/a.md)"),
    ],
)
def test_links_are_those_of_the_site_and_show_titles(source, link, expected):
    assert site_links.rewrite(link, source, site_links.titles(SITE["nav"])) == expected


def test_a_link_that_leads_nowhere_ends_the_build():
    with pytest.raises(site_links.BrokenLinkError, match=r"docs/ci.md: the link to gone.md leads nowhere"):
        site_links.rewrite("[gone](gone.md)", "ci.md", {})


def test_nothing_is_loaded_from_elsewhere_and_links_are_checked():
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False
