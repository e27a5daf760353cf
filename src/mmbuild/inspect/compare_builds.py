"""Compares builds: precision, size, build cost, quality, speed.

Reads only the build directories; no engine is loaded and nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir import description as layout
from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import flag, integer, list_of, mapping_of, number, optional, record, text, word
from mmbuild.base.files import FileRefusedError, read_object
from mmbuild.base.limits import MEASUREMENTS
from mmbuild.evaluation import engine_manifest

REPORT, PROFILE = "report.json", "profile.json"
REPORT_VERSION = 3
_WEIGHTS = (".safetensors",)
_PACKAGES = (".pt2", ".engine", ".plan")

_MANY = 1_000_000
_QUESTION = record(
    {"image": integer(1, _MANY), "prompt": optional(text(_MANY)), "max_new_tokens": integer(1, _MANY)},
    closed=False,
)
_REPORT = record(
    {
        "engine": optional(word),
        "quality": mapping_of(record({"value": optional(number(-1e300, 1e300))}, closed=False), 1_000),
        "gates": list_of(record({"passed": flag}, closed=False), 1_000),
        "questions": list_of(_QUESTION, _MANY),
        "pictures": list_of(text(_MANY), _MANY),
    },
    may_lack=("engine",),
    closed=False,
)
_PROFILE = record(
    {"tokens_per_second": optional(number(0, 1e15)), "peak_bytes": optional(number(0, 1e18))},
    may_lack=("tokens_per_second", "peak_bytes"),
    closed=False,
)


class CompareError(MmbuildError):
    """A build whose report cannot be read."""


def compare(builds: Sequence[str | Path]) -> dict[str, Any]:
    """Compare ``builds``.

    Returns:
        ``{"version", "builds", "notes"}``, plain data. Each build has ``name``, ``family``, ``backend``, ``device``,
        ``ranks``, ``dtype``, ``quant_algo``, ``weights`` (``dummy`` if they are random), ``refused``, ``model``
        (digests of its sources), ``bytes`` (``weights``, ``packages``), ``building`` (``seconds`` of all its
        actions, ``peak_memory`` in bytes), ``quality`` (value by gate), ``gates`` (number passed, total),
        ``questions``, ``asked`` and ``speed`` (from a saved ``profile.json``); None if unknown. Notes say what is not
        comparable.

    Raises:
        LayoutError: A directory is not an engine directory.
        CompareError: MM596, a report or profile is damaged or has another version.
        ValueError: There are no builds.
    """
    if not builds:
        raise ValueError("there are no builds to compare")
    entries = [inspect_builds(Path(build)) for build in builds]
    return {"version": 1, "builds": entries, "notes": notes(entries)}


def inspect_builds(build: Path) -> dict[str, Any]:
    """The entry of one build, as described in :func:`compare`."""
    description = layout.read(build, whole_llm=False)
    llm, report = description.llm, _report(build)
    return {
        "name": str(build),
        "family": description.family,
        "backend": description.backend,
        "device": _device(description.target),
        "ranks": llm["tensor_parallel"],
        **_precision(llm),
        "weights": engine_manifest.weights(build),
        "refused": [item.get("message", "") for item in engine_manifest.read(build).get("refused", ())],
        "model": sorted(str(action.get("artifact")) for action in engine_manifest.actions(build, "download"))
        or None,
        "bytes": {"weights": _bytes(build, _WEIGHTS), "packages": _bytes(build, _PACKAGES)},
        "building": _building(build),
        **_quality(report),
        "speed": _speed(build),
    }


def notes(builds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not comparable between the first of ``builds`` and the others, one sentence each."""
    first, lines = builds[0], []
    for other in builds[1:]:
        both = f"`{other['name']}` and `{first['name']}`"
        if _differ(first["model"], other["model"]) or first["family"] != other["family"]:
            lines.append(
                f"{both} are built from different models: compare their quality only by their own gates"
            )
        elif _differ(first["asked"], other["asked"]):
            lines.append(f"{both} were asked different questions: their quality is not comparable")
        if not _one_device(first["device"], other["device"]):
            lines.append(f"{both} are for different devices: times and memory are not comparable")
    lines += [
        f"the weights of `{build['name']}` are random: its quality is meaningless"
        for build in builds
        if build["weights"] == "dummy"
    ]
    return lines


def _precision(llm: Mapping[str, Any]) -> dict[str, Any]:
    """Data type and quantization; with backend tensorrt-llm, from the variables of its commands."""
    if "variables" not in llm:
        return {"dtype": llm.get("dtype"), "quant_algo": llm.get("quant_algo")}
    requested = llm["variables"]
    algorithm = requested.get("algorithm")
    return {"dtype": requested.get("dtype"), "quant_algo": None if algorithm == "none" else algorithm}


def _differ(first: object, second: object) -> bool:
    return first is not None and second is not None and first != second


def _one_device(first: str, second: str) -> bool:
    """Whether two builds may run on the same device: checkpoints name no instruction set."""
    return first.startswith(second) or second.startswith(first)


def _device(target: Mapping[str, Any]) -> str:
    if target.get("sm") is not None:
        return f"{target['device']} sm{target['sm']}"
    return " ".join(str(target[key]) for key in ("device", "isa") if target.get(key))


def _bytes(build: Path, suffixes: tuple[str, ...]) -> int:
    """Total size of the files with ``suffixes``, following links."""
    files = (path for path in build.rglob("*") if path.suffix in suffixes and path.is_file())
    return sum(path.stat().st_size for path in files)


def _building(build: Path) -> dict[str, float] | None:
    """Time and memory of the actions that produced the build, whenever they ran."""
    try:
        actions = engine_manifest.read(build)["actions"]
        return {
            "seconds": sum(action["seconds"] for action in actions),
            "peak_memory": max(action["peak_memory"] for action in actions),
        }
    except (KeyError, TypeError, ValueError):
        return None


def latest_report(build: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """The latest report of this engine, from `mmbuild verify`, otherwise from apply; None if there is none.

    A report of backend tensorrt-llm, which compares nothing, is returned as it is.

    Raises:
        CompareError: MM596, a report is damaged or has another version.
    """
    engine = engine_manifest.engine(build)
    own = _read(build / REPORT)
    if own is not None and (engine is None or own.get("engine") == engine):
        return build / REPORT, own
    return build / "verify" / REPORT, _read(build / "verify" / REPORT)


def _report(build: Path) -> Mapping[str, Any] | None:
    """:func:`latest_report`, if it compares the engine with its source model."""
    _, report = latest_report(build)
    return None if report is None or compares_nothing(report) else report


def _quality(report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {"quality": None, "gates": None, "questions": None, "asked": None}
    questions, pictures = report["questions"], report["pictures"]
    return {
        "quality": {name: entry["value"] for name, entry in report["quality"].items()},
        "gates": [sum(gate["passed"] for gate in report["gates"]), len(report["gates"])],
        "questions": len(questions),
        "asked": [
            [pictures[item["image"] - 1], item["prompt"], item["max_new_tokens"]] for item in questions
        ],
    }


def _read(path: Path) -> Mapping[str, Any] | None:
    """A report; None if it does not exist."""
    data = _json(path)
    if data is None or compares_nothing(data):
        return data
    if data.get("version") != REPORT_VERSION:
        raise CompareError(
            f"`{path}` has version {str(data.get('version'))[:40]}, but this mmbuild reads version "
            f"{REPORT_VERSION}",
            code="MM596",
            hint=f"run `mmbuild verify {path.parent}` to write it again",
        )
    require_report(path, _REPORT(data, "") or _image_problem(data))
    return data


def compares_nothing(report: Mapping[str, Any]) -> bool:
    """Whether it is from backend tensorrt-llm."""
    summary = report.get("summary")
    return isinstance(summary, dict) and summary.get("compared") is False


def _image_problem(report: Mapping[str, Any]) -> str | None:
    """The problem if a question refers to an image that is not in the report."""
    count = len(report["pictures"])
    invalid = next((item["image"] for item in report["questions"] if item["image"] > count), None)
    return None if invalid is None else f"a question refers to image {invalid}, but there are {count}"


def require_report(path: Path, problem: str | None) -> None:
    """Raise MM596 if a report has a problem."""
    if problem is not None:
        raise CompareError(
            f"`{path}` is damaged: {problem}", code="MM596", hint="run `mmbuild verify` on the build again"
        )


def _speed(build: Path) -> Mapping[str, Any] | None:
    """Speed from the output of ``mmbuild run BUILD --json``, if it was saved as ``profile.json``."""
    data = _json(build / PROFILE)
    profile = data.get("profile") if data is not None else None
    if not isinstance(profile, dict):
        return None
    require_report(build / PROFILE, _PROFILE(profile, "profile"))
    return {name: profile.get(name) for name in ("tokens_per_second", "peak_bytes")}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path, MEASUREMENTS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FileRefusedError as error:
        raise CompareError(f"`{path}` {error.problem}", code="MM596", hint="remove it") from None
    except OSError as error:
        raise CompareError(
            f"`{path}` cannot be read: {error.strerror}", code="MM596", hint="remove it"
        ) from error
