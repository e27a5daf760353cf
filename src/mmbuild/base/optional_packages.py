"""Commands for installing mmbuild's optional packages.

mmbuild is not on the package index, so it cannot be installed by name. Hints name the checkout or wheel file that
this mmbuild was installed from; diagnostics and docs, which are the same everywhere, name both.
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
    """A required package is not installed (MM230)."""


def install_hint(*extras: str) -> str:
    """Return the command that adds extras to this mmbuild, from the place it was installed from."""
    place = _origin()
    if place is None:
        return general_hint(*extras).replace("`", "")
    editable = "-e " if place.is_dir() else ""
    return f"pip install {editable}{shlex.quote(_with(str(place), extras))}"


def general_hint(*extras: str) -> str:
    """Return the command for any machine: from a checkout, and from a wheel file."""
    return (
        f"`pip install -e {shlex.quote(_with('.', extras))}` in mmbuild's checkout, or "
        f"`pip install {shlex.quote(_with(_WHEEL, extras))}` with its wheel file"
    )


def expand(text: str) -> str:
    """Return ``text`` with each ``{install EXTRA}`` replaced by :func:`general_hint`."""
    return _MARK.sub(lambda match: general_hint(*match[1].split(",")), text)


def require(*packages: str, needed_by: str, extra: str = "torch") -> None:
    """Require that ``packages`` are installed.

    Args:
        packages: Import names.
        needed_by: What needs them, as the subject of a sentence: ``running an engine``.
        extra: The extra that installs them.

    Raises:
        MissingPackageError: MM230, a package is missing.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise missing_package_error(package, needed_by, extra)


def missing_package_error(
    package: str, needed_by: str, extra: str = "torch", otherwise: str = ""
) -> MissingPackageError:
    """The error of :func:`require`; ``otherwise`` is added to its hint."""
    return MissingPackageError(
        f"{needed_by} needs `{package}` in mmbuild's own environment, where it is not installed",
        code="MM230",
        hint=install_hint(extra) + otherwise,
    )


def _with(place: str, extras: tuple[str, ...]) -> str:
    return f"{place}[{','.join(extras)}]"


@cache
def _origin() -> Path | None:
    """Return the checkout or wheel file that this mmbuild was installed from; None if unknown or removed."""
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
