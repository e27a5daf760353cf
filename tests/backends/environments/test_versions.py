"""Versions against specifiers."""

from __future__ import annotations

import pytest

from mmbuild.backends.environments.versions import accepts, extra_requirements, specifiers


@pytest.mark.parametrize(
    ("specifier", "version", "expected"),
    [
        (">=2.2.0a,<=2.3.0a", "2.3.0a0+40ec155e58.nv24.3", True),  # as in NVIDIA's images
        (">=2.2.0a,<=2.3.0a", "2.3.0", False),
        ("==9.3.0.post12.dev1", "9.3.0.post12.dev1", True),
        ("~=0.11,<0.12", "0.11.2", True),
        ("~=10.13.3", "10.13.3.9", True),
        ("~=10.13.3", "10.14.1", False),
        (">=2.9.0a0,<=2.9.0", "2.9.0+cu130", True),
        (">=1.2,<1.3", "1.2.1", True),
        ("<2", "2.0.0", False),
        ("", "anything", None),
        ("", "1", True),
        ("==x", "1", None),
    ],
)
def test_a_version_matches_or_not_or_cannot_be_parsed(
    specifier: str, version: str, expected: bool | None
) -> None:
    assert accepts(specifier, version) is expected


def test_requirement_lines_for_a_python_and_an_extra() -> None:
    lines = [
        "torch<=2.3,>=2.2",
        "nvidia_modelopt[torch]~=0.11; platform_machine != 'toaster'",
        "StrEnum; python_version < '3.11'",
        "pytest>=8; extra == 'dev'",
        "git+https://example.org/x.git",
    ]
    assert specifiers(lines, python="3.10.14") == {
        "torch": "<=2.3,>=2.2",
        "nvidia-modelopt": "~=0.11",
        "strenum": "",
    }
    assert set(specifiers(lines, python="3.12.1", extra="dev")) == {"torch", "nvidia-modelopt", "pytest"}


def test_our_own_extras_are_those_of_the_installed_metadata() -> None:
    assert set(extra_requirements("torch")) == {"torch", "transformers", "tokenizers", "pillow"}
    assert "pydantic" not in extra_requirements("torch")
    assert extra_requirements("no-such-extra") == {}
