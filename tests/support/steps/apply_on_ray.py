"""``python apply_on_ray.py STORE BUILD FILE``: an apply on a Ray of its own of an action that starts a process.

That process outlives its step unless somebody ends it; its id is in FILE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmbuild.api import plan_graphs, run
from mmbuild.cli.output import run_guarded
from mmbuild.core.execution.options import ApplyOptions
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.store.layout import open_store
from support.steps.trivial import action


def main(store: str, build: str, file: str) -> int:
    os.environ["MMBUILD_STEPS"] = "support.steps.trivial:TABLE"
    only = action("grandchild", "r/held", file=file, seconds=600)
    plan = plan_graphs([RecipeGraph("r", (only,), only.definition_key)], open_store(store), Path(build))
    return 0 if run(plan, ApplyOptions(executor="ray")).ok else 1


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main(*sys.argv[1:])))
