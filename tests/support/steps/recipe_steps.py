"""Trivial bodies under the names of the real steps.

``MMBUILD_STEPS=support.steps.recipe_steps:TABLE`` drives real recipes with them.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from mmbuild.core.steps.context import StepContext
from mmbuild.core.steps.registry import StepSpec
from mmbuild.steps.table import STEPS


def body(context: StepContext) -> None:
    """Write what the action was given."""
    if os.environ.get("MMBUILD_TEST_FAIL") == context.params.get("algorithm", ""):
        raise ZeroDivisionError("the test asked for it")
    if os.environ.get("MMBUILD_TEST_KILL") == context.params.get("algorithm", ""):
        print("layer 1 of 2\nlayer 2 of 2", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if (pipe := os.environ.get("MMBUILD_TEST_HOLD")) and context.params.keys() == {"algorithm"}:
        context.progress("held by the test", 0.25)
        Path(pipe).read_text()  # until the test writes into this named pipe
    given = {
        "params": dict(context.params),
        "inputs": sorted(context.inputs),
        "sources": dict(context.sources),
    }
    inputs = [(path / "result.json").read_text() for _, path in sorted(context.inputs.items())]
    (context.out / "result.json").write_text(json.dumps([given, inputs], sort_keys=True))


TABLE: Mapping[str, StepSpec] = {
    name: StepSpec(name, "trivial-1", "support.steps.recipe_steps:body") for name in STEPS
}
