"""Plan files written by ``plan -o FILE``: the request, and what apply would have done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError, StalePlanError
from mmbuild.base.files import FileRefusedError, read_beginning, read_object
from mmbuild.base.limits import SAVED_PLAN
from mmbuild.core.graph.plan import Plan
from mmbuild.core.graph.serialize import PLAN_SCHEMA, plan_to_json
from mmbuild.core.store.disk_errors import output_errors
from mmbuild.core.store.record_fields import (
    DIGEST,
    FLAG,
    LOCATION,
    TEXT,
    FieldKind,
    list_of,
    or_null,
    require_fields,
)

_HEAD_BYTES = 256
_KEYS = (b'"schema"', b'"kind"', b'"mmbuild"', b'"hash"', b'"request"', b'"builds"', b'"actions"')


def save_plan(path: Path, plan: Plan, request: Mapping[str, Any]) -> None:
    """Write ``plan`` together with its request.

    Raises:
        MmbuildError: MM301 or MM302, the file cannot be written.
    """
    text = json.dumps(plan_to_json(plan, request), indent=1) + "\n"
    with output_errors(path):
        path.write_text(text, encoding="utf-8")


def looks_saved(path: Path) -> bool:
    """Return whether a file starts like a saved plan rather than a recipe in flow style; False if unreadable."""
    try:
        head = read_beginning(path, _HEAD_BYTES).lstrip()
    except (OSError, FileRefusedError):
        return False
    inside = head[1:].lstrip()
    return head[:1] == b"{" and (not inside or inside.startswith((b"}", *_KEYS)))


def read_saved(path: Path) -> dict[str, Any]:
    """Read a saved plan.

    Raises:
        MmbuildError: MM201, the file is damaged, is not a plan, or has another version.
    """
    try:
        data = read_object(path, SAVED_PLAN)
    except FileRefusedError as error:
        raise _unreadable(path, f"it {error.problem}") from error
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    if data.get("kind") != "plan":
        raise _unreadable(path, "it is not a plan")
    if data.get("schema") != PLAN_SCHEMA:
        raise _unreadable(
            path, f"it has schema {str(data.get('schema'))[:40]}, but this mmbuild reads {PLAN_SCHEMA}"
        )
    try:
        _check_parts(data)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, f"parts of it are missing or damaged: {error}") from error
    return data


_REQUEST: Mapping[str, FieldKind] = {
    "recipes": list_of(LOCATION),
    "overrides": list_of(TEXT),
    "offline": FLAG,
    "allow_outside": or_null(FLAG),
    "store": LOCATION,
    "build_dir": LOCATION,
    "locked": FLAG,
}


def _check_parts(data: Mapping[str, Any]) -> None:
    """Check the fields of a saved plan that are used.

    Raises:
        ValueError, KeyError, TypeError: A field is missing or has the wrong type.
    """
    request = require_fields(data["request"], _REQUEST)
    missing = [name for name in _REQUEST if name not in request and name != "locked"]
    if missing:
        raise ValueError(f"its request has no `{missing[0]}`")
    if not request["recipes"]:
        raise ValueError("its request names no recipe")
    for item in data["actions"]:
        label = item["label"]
        if not (TEXT.holds(label) and DIGEST.holds(item["definition_key"]) and TEXT.holds(item["verdict"])):
            raise ValueError("an action has an invalid field")


def require_recipes(path: Path, saved: Mapping[str, Any]) -> None:
    """Refuse a plan whose recipes no longer exist, before anything is created in its directories.

    Raises:
        StalePlanError: MM202, a recipe of the plan does not exist.
    """
    gone = next((recipe for recipe in saved["request"]["recipes"] if not os.path.lexists(recipe)), None)
    if gone is not None:
        raise StalePlanError(
            f"the plan `{path}` was created from `{gone}`, which does not exist",
            code="MM202",
            hint=f"create it again with `mmbuild plan RECIPE -o {path}`",
        )


def check_fresh(path: Path, saved: Mapping[str, Any], plan: Plan) -> None:
    """Compare a saved plan with what apply would do now.

    Raises:
        StalePlanError: MM202, they differ.
    """
    then = {item["label"]: (item["definition_key"], item["verdict"]) for item in saved["actions"]}
    now = {p.action.label: (p.action.definition_key, str(p.verdict)) for p in plan.actions}
    if saved.get("hash") == plan.hash and then == now:
        return
    changed = sorted(label for label in {**then, **now} if then.get(label) != now.get(label))
    shown = ", ".join(f"`{label}`" for label in changed[:4]) or "the builds"
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise StalePlanError(
        f"the plan `{path}` is stale: {shown}{more} changed since it was saved",
        code="MM202",
        hint="save it again with `mmbuild plan RECIPE -o FILE`, and check what changed",
    )


def _unreadable(path: Path, reason: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` cannot be applied as a plan: {reason}",
        code="MM201",
        hint="save a plan with `mmbuild plan RECIPE -o FILE`, or apply the recipe itself",
    )
