"""Two machines and a shared directory."""

import pytest

from support.projects.machines import Machine


@pytest.fixture
def url(tmp_path):
    (tmp_path / "shared").mkdir()
    return f"file://{tmp_path}/shared"


@pytest.fixture
def one(tmp_path, url):
    return Machine(tmp_path / "one", url=url)


@pytest.fixture
def other(tmp_path, url):
    return Machine(tmp_path / "other", url=url)
