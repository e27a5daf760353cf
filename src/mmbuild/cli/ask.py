"""``mmbuild run`` and ``mmbuild verify`` for engines of backend tensorrt-llm: upstream's runner is asked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.backends.tensorrt_llm.runner.infer import InferenceRequest, InferenceResult
    from mmbuild.backends.tensorrt_llm.toolchains.model import Mode
    from mmbuild.config.model import ToolchainEnvironment

Pair = tuple[tuple[str, ...], str | None]

# What upstream's runner takes; everything else is of the embedded engine.
RUN = ("--image", "--prompt", "--together", "--max-new-tokens", "--profile", "--json")
VERIFY = ("--store",)


def refuse_others(given: Sequence[str], taken: Sequence[str]) -> None:
    """Refuse options that upstream's runner has no counterpart for.

    Args:
        given: Options of the command line.
        taken: :data:`RUN` or :data:`VERIFY`.

    Raises:
        UsageError: MM705.
    """
    from mmbuild.base.errors import UsageError

    found = [name for name in given if name not in taken]
    if found:
        raise UsageError(
            f"{', '.join(found)}: engines of backend tensorrt-llm are asked through upstream's runner, which answers "
            "greedily, or with as many beams as the engine was built for, and checks its own question",
            code="MM705",
            hint="Leave them out",
        )


def answer(
    build: Path, description: Description, pairs: Sequence[Pair], max_new_tokens: int | None, show: str
) -> None:
    """Ask each pair and print the answers; ``show``: ``text``, ``profile`` or ``json``."""
    from mmbuild.backends.tensorrt_llm.runner.infer import InferenceRequest

    mode: Mode = "profile" if show == "profile" else "run"
    environment = environment_of(description)
    found = []
    for images, prompt in pairs:
        question = InferenceRequest(prompt, tuple(Path(image) for image in images), max_new_tokens, mode)
        answered = _run_inference(build, description, environment, question)
        found.append({"images": list(images), "prompt": prompt, "text": "\n".join(answered.texts)})
        if show != "json":
            for text in answered.texts:
                click.echo(text)
    if show == "json":
        click.echo(json.dumps({"answers": found, "toolchain": dict(description.toolchain)}, indent=2))


def check_accuracy(build: Path, description: Description) -> None:
    """Upstream's own check: its question about its picture, compared with the answer that it knows."""
    from mmbuild.backends.tensorrt_llm.runner.infer import InferenceRequest
    from mmbuild.cli.output import print_status

    answered = _run_inference(
        build, description, environment_of(description), InferenceRequest(mode="check_accuracy")
    )
    for text in answered.texts:
        click.echo(text)
    print_status("the accuracy check of TensorRT-LLM's runner passed; nothing was compared with transformers")


def environment_of(description: Description) -> ToolchainEnvironment:
    """Where the toolchain of a built engine runs on this machine.

    Raises:
        MmbuildError: MM704, it is not configured.
    """
    from mmbuild.base.errors import MmbuildError
    from mmbuild.config.load import load

    version = description.toolchain["tensorrt-llm"]
    found = load().toolchains.get(version)
    if found is None:
        raise MmbuildError(
            f"the engine runs in TensorRT-LLM {version}, and no environment is configured for it",
            code="MM704",
            hint=f"`mmbuild config set-toolchain {version} --python ... --examples ...`; `mmbuild compat` says "
            "what the engine needs",
        )
    return found


def _run_inference(
    build: Path, description: Description, environment: ToolchainEnvironment, question: InferenceRequest
) -> InferenceResult:
    from mmbuild.backends.tensorrt_llm.runner.infer import infer
    from mmbuild.base.gpu import visible_gpus
    from mmbuild.cli.output import print_status

    with tempfile.TemporaryDirectory(prefix="mmbuild-") as root:
        return infer(
            build.absolute(),
            description,
            environment,
            question,
            Path(root) / "tree",
            gpus=tuple(gpu.uuid for gpu in visible_gpus() or ())[: description.llm["tensor_parallel"]],
            tell=print_status,
        )
