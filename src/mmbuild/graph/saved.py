"""Plans saved by ``plan -o FILE``: what was asked for, and what would have been done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.beginnings import read_beginning
from mmbuild.base.files import FileRefusedError
from mmbuild.errors import MmbuildError, StalePlanError
from mmbuild.graph.plan import Plan
from mmbuild.graph.serialize import PLAN_SCHEMA, plan_to_json
from mmbuild.store.faults import disk_errors

_BEGINNING = 4096


def save_plan(path: Path, plan: Plan, request: Mapping[str, Any]) -> None:
    """Write ``plan`` with the request that made it.

    Raises:
        MmbuildError: MM301, MM302 the file cannot be written.
    """
    text = json.dumps(plan_to_json(plan, request), indent=1) + "\n"
    with disk_errors(path):
        path.write_text(text, encoding="utf-8")


def looks_saved(path: Path) -> bool:
    """Whether a file is a saved plan rather than a recipe, which may be JSON too; False where it cannot be read."""
    try:
        beginning = read_beginning(path, _BEGINNING).lstrip()
    except (OSError, FileRefusedError):
        return False
    recipe = any(key in beginning for key in (b"model", b"extends", b"engine"))
    return beginning.startswith(b"{") and (b'"kind": "plan"' in beginning or not recipe)


def read_saved(path: Path) -> dict[str, Any]:
    """Read a saved plan.

    Raises:
        MmbuildError: MM201 it is damaged, no plan, or of another version.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(data, dict) or data.get("kind") != "plan":
        raise _unreadable(path, "it is not a plan")
    if data.get("schema") != PLAN_SCHEMA:
        raise _unreadable(path, f"it has schema {data.get('schema')!r}, this mmbuild knows {PLAN_SCHEMA}")
    request = data.get("request")
    if not isinstance(request, dict) or not isinstance(data.get("actions"), list):
        raise _unreadable(path, "parts of it are missing")
    return data


def check_fresh(path: Path, saved: Mapping[str, Any], plan: Plan) -> None:
    """Compare a saved plan with what apply would do now.

    Raises:
        StalePlanError: MM202 they differ.
    """
    then = {item["label"]: (item["definition_key"], item["verdict"]) for item in saved["actions"]}
    now = {p.action.label: (p.action.definition_key, str(p.verdict)) for p in plan.actions}
    if saved.get("hash") == plan.hash and then == now:
        return
    changed = sorted(label for label in {**then, **now} if then.get(label) != now.get(label))
    shown = ", ".join(f"`{label}`" for label in changed[:4]) or "the builds"
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise StalePlanError(
        f"the plan `{path}` is stale: {shown}{more} changed since it was made",
        code="MM202",
        hint="make it again with `mmbuild plan -o FILE`, and look at what is different",
    )


def _unreadable(path: Path, why: str) -> MmbuildError:
    return MmbuildError(
        f"`{path}` cannot be applied as a plan: {why}",
        code="MM201",
        hint="save a plan with `mmbuild plan RECIPE -o FILE`, or apply the recipe itself",
    )
