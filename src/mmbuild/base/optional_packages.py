"""How to install mmbuild's optional packages.

mmbuild is not on the package index, so its name alone installs nothing. Hints name the checkout or wheel file that
this mmbuild came from; codes and docs, which are the same everywhere, name both ways.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mmbuild.base.errors import MmbuildError

_WHEEL = "WHEEL"
_MARK = re.compile(r"\{install ([\w,-]+)\}")


class MissingPackageError(MmbuildError):
    """A package that is needed and not installed (MM230)."""


def install_hint(*extras: str) -> str:
    """The command that installs extras into this Python's mmbuild, as this mmbuild was installed."""
    place = _origin()
    if place is None:
        return general_hint(*extras).replace("`", "")
    editable = "-e " if place.is_dir() else ""
    return f"pip install {editable}{shlex.quote(_with(str(place), extras))}"


def general_hint(*extras: str) -> str:
    """The same for any machine: from a checkout, and from a wheel file."""
    return (
        f"`pip install -e {shlex.quote(_with('.', extras))}` in mmbuild's checkout, or "
        f"`pip install {shlex.quote(_with(_WHEEL, extras))}` with its wheel file"
    )


def expand(text: str) -> str:
    """``text`` with each ``{install EXTRA}`` replaced by :func:`general_hint`."""
    return _MARK.sub(lambda found: general_hint(*found[1].split(",")), text)


def require(*packages: str, needed_by: str, extra: str = "torch") -> None:
    """Refuse to go on without ``packages``.

    Args:
        packages: Names as they are imported.
        needed_by: Who needs them, the beginning of a sentence: ``running an engine``.
        extra: The extra that brings them.

    Raises:
        MissingPackageError: MM230, one cannot be found.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise missing_package_error(package, needed_by, extra)


def missing_package_error(package: str, needed_by: str, extra: str = "torch") -> MissingPackageError:
    """The error of :func:`require`."""
    return MissingPackageError(
        f"{needed_by} needs `{package}` in mmbuild's own environment, where it is not installed",
        code="MM230",
        hint=install_hint(extra),
    )


def _with(place: str, extras: tuple[str, ...]) -> str:
    return f"{place}[{','.join(extras)}]"


@cache
def _origin() -> Path | None:
    """The checkout or wheel file that this mmbuild comes from; None where neither is known or still there."""
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file() and (checkout / "src" / "mmbuild").is_dir():
        return checkout
    try:
        stated = metadata.distribution("mmbuild").read_text("direct_url.json")
        url = urlsplit(json.loads(stated or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    place = Path(unquote(url.path)) if url.scheme == "file" else None
    return place if place is not None and place.exists() else None
