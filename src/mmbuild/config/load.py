"""Locates and reads the user's configuration, with source locations. A missing file counts as empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import YAML_TEXT

if TYPE_CHECKING:
    from mmbuild.base.diagnostics import Diagnostic
    from mmbuild.base.yaml_nodes import YamlNode
    from mmbuild.config.model import UserConfig


def config_path() -> Path:
    """Return the path of the configuration file, which need not exist.

    ``$MMBUILD_CONFIG``, else ``$XDG_CONFIG_HOME/mmbuild/config.yaml``, else ``~/.config/mmbuild/config.yaml``.
    """
    given = os.environ.get("MMBUILD_CONFIG")
    if given:
        return Path(os.path.expanduser(given)).absolute()
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    # A relative XDG_CONFIG_HOME must be ignored (XDG Base Directory Specification 0.8).
    home = base if base.is_absolute() else Path(os.path.expanduser("~")) / ".config"
    return home / "mmbuild" / "config.yaml"


def load(path: Path | None = None) -> UserConfig:
    """Load the configuration at ``path`` (default: :func:`config_path`); empty if there is no file.

    Raises:
        RecipeError: Findings with file, line and column.
        MmbuildError: MM610, the file cannot be read.
    """
    path = config_path() if path is None else path
    text = read_text(path)
    return parse(text or "", str(path))


def read_text(path: Path) -> str | None:
    """Read the text at ``path``; return None if the file does not exist.

    Raises:
        MmbuildError: MM610, it cannot be read, is not UTF-8 or is too large.
    """
    try:
        data = read_file(path, YAML_TEXT)
    except FileNotFoundError:
        return None
    except FileRefusedError as error:
        raise _unreadable(path, error.problem) from None
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text (byte {error.start})") from error


def parse(text: str, label: str) -> UserConfig:
    """Parse ``text`` as a configuration; ``label`` is its name in findings.

    Raises:
        RecipeError: Findings with line and column.
    """
    return parse_with_data(text, label)[0]


def parse_with_data(text: str, label: str) -> tuple[UserConfig, dict[str, Any]]:
    """:func:`parse`, and what is written: no defaults filled in, paths as they are there."""
    from mmbuild.base import yaml_parser
    from mmbuild.base.diagnostics import RecipeError
    from mmbuild.base.yaml_nodes import Source, plain
    from mmbuild.config.model import UserConfig

    lines = yaml_parser.split_lines(text)
    if all(not line.strip() or line.lstrip().startswith("#") for line in lines):
        return UserConfig(), {}
    root, findings = yaml_parser.parse(Source(label, lines))
    if root is None or root.value is None:
        if findings:
            raise RecipeError(findings)
        return UserConfig(), {}
    config, errors = _validated(root)
    # Do not report a location again that the YAML parser has already reported.
    reported = {(item.line, item.column) for item in findings}
    findings += [item for item in errors if (item.line, item.column) not in reported]
    findings += _unknown_versions(root)
    if findings or config is None:
        raise RecipeError(sorted(findings, key=lambda item: (item.line, item.column)))
    return config, plain(root)


def _validated(root: YamlNode) -> tuple[UserConfig | None, list[Diagnostic]]:
    from mmbuild.base.pydantic_errors import DocumentKind, by_path, diagnose, validate
    from mmbuild.config.model import UserConfig

    form = DocumentKind(UserConfig, "configuration", rule="MM611")
    config, errors = validate(root, form)
    return config, [diagnose(root, path, group, form) for path, group in by_path(root, errors).items()]


def _unknown_versions(root: YamlNode) -> Iterator[Diagnostic]:
    """Yield findings for versions without a toolchain, whose entries could never be used."""
    from mmbuild.base.yaml_nodes import diagnostic_at, find
    from mmbuild.schema.tensorrt_llm_versions import ToolchainError, require

    toolchains, reached = find(root, ("toolchains",))
    if not reached or not isinstance(toolchains.value, dict):
        return
    for version, node in toolchains.value.items():
        try:
            require(version)
        except ToolchainError as error:
            path = f"toolchains.{version}"
            yield diagnostic_at(error.code, error.message, node.key or node.span, path=path, hint=error.hint)


def _unreadable(path: Path, problem: str) -> MmbuildError:
    return MmbuildError(
        f"the configuration `{path}` {problem}",
        code="MM610",
        hint="fix or remove the file; `mmbuild config path` prints its location",
    )
