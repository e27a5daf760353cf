"""A cut into shards for people, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbuild._version import __version__
from mmbuild.base.formatting import estimate_text
from mmbuild.core.graph.action import Action
from mmbuild.team.ci.shards import ShardPlan

VERSION = 1


def document(found: ShardPlan, actions: Mapping[str, Action], seconds: Mapping[str, float]) -> dict[str, Any]:
    """The versioned JSON form.

    Returns:
        ``{"version", "mmbuild", "shards", "makespan", "bound", "critical", "total", "repeated"}``. A shard: ``index``
        (from 1), ``variants``, ``actions`` (labels), ``seconds``. ``repeated``: ``label``, ``shards``, ``extra``
        (seconds beyond doing it once).
    """
    return {
        "version": VERSION,
        "mmbuild": __version__,
        "shards": [
            {
                "index": index,
                "variants": list(shard.variants),
                "actions": [actions[key].label for key in shard.actions],
                "seconds": round(shard.seconds, 1),
            }
            for index, shard in enumerate(found.shards, 1)
        ],
        **{name: round(getattr(found, name), 1) for name in ("makespan", "bound", "critical", "total")},
        "repeated": [
            {
                "label": actions[key].label,
                "shards": [place + 1 for place in places],
                "extra": round(seconds[key] * (len(places) - 1), 1),
            }
            for key, places in found.repeated.items()
        ],
    }


def text(found: ShardPlan, actions: Mapping[str, Action], seconds: Mapping[str, float]) -> str:
    """Shards with their variants, the end they are predicted to have, and what is done more than once."""
    lines = []
    for index, shard in enumerate(found.shards, 1):
        lines.append(f"shard {index}: {estimate_text(shard.seconds)}, {len(shard.actions)} actions")
        lines += [f"  {name}" for name in shard.variants]
    lines.append(
        f"all done after {estimate_text(found.makespan)} (estimated); no cut into {len(found.shards)} takes less than"
        f" {estimate_text(found.bound)}: the longest chain of actions takes {estimate_text(found.critical)},"
        f" all of them {estimate_text(found.total)}"
    )
    for key, places in found.repeated.items():
        where = ", ".join(str(place + 1) for place in places)
        extra = estimate_text(seconds[key] * (len(places) - 1))
        lines.append(f"made in each of shards {where}: {actions[key].label}, {extra} more")
    return "\n".join(lines) + "\n"
