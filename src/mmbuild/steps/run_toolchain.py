"""Runs commands of a TensorRT-LLM version in a fresh directory and checks their outputs against the plan.

All building steps of backend tensorrt-llm use this function; the parameters list the commands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbuild.backends.environments.launch import Launch, launch
from mmbuild.backends.tensorrt_llm.output_checks.check import check
from mmbuild.backends.tensorrt_llm.output_checks.files import ProductError
from mmbuild.backends.tensorrt_llm.output_checks.model import Expected
from mmbuild.backends.tensorrt_llm.runner.command import run_command
from mmbuild.backends.tensorrt_llm.runner.workdir import (
    add_files,
    link_tree,
    linked_directories,
    make_workplace,
)
from mmbuild.backends.tensorrt_llm.toolchains.model import Edit
from mmbuild.backends.tensorrt_llm.toolchains.patches import apply_edit
from mmbuild.base.progress import Amount
from mmbuild.config.model import ToolchainEnvironment
from mmbuild.core.steps.context import StepContext

_TREE = "tree"
_HISTORY = ".git"


def run(context: StepContext) -> None:
    """``params``: ``{"toolchain", "workdir", "commands", "reads", "place", "files"}`` as
    :func:`mmbuild.backends.tensorrt_llm.lower` builds them; inputs by the names of ``reads``; locator
    ``environment``: a :class:`~mmbuild.config.model.ToolchainEnvironment` as JSON.

    Raises:
        CommandError: MM670 to MM690 or MM700, a command failed.
        ProductError: MM650 to MM662, the outputs of a command differ from the plan.
        ToolchainError: MM701, the code to edit is not as expected.
    """
    params = context.params
    environment = ToolchainEnvironment.model_validate_json(context.locators["environment"])
    reads: Mapping[str, str] = params["reads"]
    root = Path.cwd() / _TREE
    cwd = make_workplace(root, environment.examples, params["workdir"], [*reads.values(), params["place"]])
    filled = {name: cwd / place for name, place in reads.items()}
    for name, place in filled.items():
        link_tree(context.inputs[name], place)
    add_files(params["files"], cwd)
    mounts = linked_directories(filled)
    for number, command in enumerate(params["commands"]):
        context.progress(command["name"], Amount(number, len(params["commands"]), "commands"))
        if command["edit"] is not None:
            apply_edit(Edit.model_validate(command["edit"]), cwd)
            continue
        started = _launch(command, environment, root, cwd, mounts, context.gpus)
        run_command(command["name"], started, cwd, params["toolchain"], print)
        _check_outputs(command, cwd)
    context.progress("done", Amount(len(params["commands"]), len(params["commands"]), "commands"))
    _publish(cwd / params["place"], context.out)


def _launch(
    command: Mapping[str, Any],
    environment: ToolchainEnvironment,
    root: Path,
    cwd: Path,
    mounts: Sequence[Path],
    gpus: Sequence[str],
) -> Launch:
    argv = tuple(command["argv"])
    if argv[0] == "git":  # the host's git knows the user's proxies and certificates
        return Launch(argv, dict(os.environ))
    return launch(
        environment,
        argv,
        workdir=cwd,
        mounts=mounts,
        writable=(root,),
        variables=command["environment"],
        gpus=gpus,
    )


def _check_outputs(command: Mapping[str, Any], cwd: Path) -> None:
    findings = check(Expected.model_validate(command["expected"]), cwd)
    for finding in findings:
        print(f"{finding.code}: {finding.message}")
    if findings:
        first, more = findings[0], len(findings) - 1
        also = f"; and {more} more in the log" if more else ""
        raise ProductError(
            f"{command['name']} exited with status 0, but its output is not as planned: "
            f"{_short(first.message, cwd)}{also}",
            code=first.code,
            hint=first.hint,
        )


def _short(message: str, cwd: Path) -> str:
    """Remove the staging directory, which no longer exists when the message is read."""
    return message.replace(f"{cwd}{os.sep}", "")


def _publish(result: Path, out: Path) -> None:
    """Move the results into the output directory."""
    for path in sorted(result.iterdir()):
        if path.name != _HISTORY:
            path.rename(out / path.name)
