"""``python apply_shared.py STORE BUILD TEXT``: apply_chains.py with whatever shared store is configured.

Prints the labels of what ran, one a line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmbuild.api import plan_graphs, run
from mmbuild.cli.output import run_guarded
from mmbuild.core.execution.options import ApplyOptions
from mmbuild.core.store.layout import open_store
from support.steps.apply_chains import graphs


def main(store: str, build: str, text: str) -> int:
    os.environ["MMBUILD_STEPS"] = "support.steps.trivial:TABLE"
    plan = plan_graphs(graphs(text), open_store(store), Path(build))
    result = run(plan, ApplyOptions(jobs=2))
    for label in result.ran:
        print(label)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main(*sys.argv[1:])))
