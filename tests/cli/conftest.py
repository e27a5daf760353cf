"""A project with the demo recipe, as a user runs commands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.projects.demo_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
