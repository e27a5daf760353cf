"""The facts at the top of a report's page: which engine, from which recipe, checked when and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.formatting import size_text

_SIZES = {"weights": "weights", "packages": "compiled packages", "tensorrt_engine": "TensorRT engine"}
_LIMITS = {
    "max_batch_size": "{} sequences at once",
    "max_input_len": "{} tokens in",
    "max_output_len": "{} out",
    "tensor_parallel": "{} ranks",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report comes from.

    Attributes:
        recipe: Name of the variant.
        at: When the engine was checked; has a time zone.
        host: From :func:`mmbuild.base.host.facts`.
    """

    recipe: str
    at: datetime
    host: Mapping[str, Any]


def facts(report: Mapping[str, Any], origin: Origin) -> Iterator[tuple[str, str]]:
    """Name and value of each fact."""
    engine, reference = report["description"], report["reference"]
    yield "recipe", origin.recipe
    yield "engine", f"{engine['family']}, backend {engine['backend']}, for {_target(engine['target'])}"
    yield "limits", ", ".join(_limits(engine["limits"])) or "none"
    yield "size", sizes_text(engine["bytes"])
    versions = {**engine["versions"], reference["program"]: reference["version"], "mmbuild": __version__}
    yield "versions", versions_text(versions)
    yield "checked at", f"{origin.at:%Y-%m-%d %H:%M %Z}"
    yield "checked on", _host(origin.host)


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Sizes of an engine's files by kind, as :func:`mmbuild.backends.engine_dir.summary.summarize` returns them."""
    return ", ".join(f"{text} {size_text(sizes[kind])}" for kind, text in _SIZES.items() if kind in sizes)


def versions_text(versions: Mapping[str, str]) -> str:
    """Versions by package."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _limits(limits: Mapping[str, int]) -> Iterator[str]:
    for name, count in limits.items():
        if name != "tensor_parallel" or count > 1:
            yield _LIMITS[name].format(count)


def _target(target: Mapping[str, Any]) -> str:
    sm = f"sm_{target['sm']}" if target.get("sm") else target.get("isa")
    return " ".join(str(part) for part in (target.get("device"), sm) if part)


def _host(host: Mapping[str, Any]) -> str:
    gpu = f", GPU sm_{host['sm']}" if host.get("sm") else ""
    return f"{host['name']}: {host['cpu'] or 'unknown CPU'}, {host['cores']} cores{gpu}"
