"""Checks that this host can run the toolchains that a plan needs.

Without its environment a build would fail after gigabytes of downloads. So environments are queried first, once per
version, and everything missing is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmbuild.base import gpu
from mmbuild.base.errors import MmbuildError
from mmbuild.core.graph.action import Action
from mmbuild.core.graph.plan import Plan, Verdict

if TYPE_CHECKING:
    from mmbuild.backends.tensorrt_llm.toolchains.model import Toolchain
    from mmbuild.base.checks import Check

_COMMANDS = ("toolchain", "toolchain_verify")


class ToolchainMissingError(MmbuildError):
    """MM702: a toolchain is not ready. ``details`` are the lines below the message: what is missing, and remedies."""

    def __init__(
        self, message: str, *, code: str, hint: str | None = None, details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (self.message, self.code, self.hint, self.details))


def _restore(message: str, code: str, hint: str | None, details: tuple[str, ...]) -> ToolchainMissingError:
    return ToolchainMissingError(message, code=code, hint=hint, details=details)


@dataclass(slots=True)
class _Need:
    """What the recipes of a plan need from one TensorRT-LLM version."""

    recipes: set[str] = field(default_factory=set)
    families: set[str] = field(default_factory=set)
    architectures: set[int] = field(default_factory=set)
    ranks: int = 1


def require_toolchains(plan: Plan) -> None:
    """Reject a plan whose commands cannot run here. Plans without commands to run are not checked.

    Raises:
        ToolchainMissingError: MM702.
    """
    needs = _needs(plan)
    if not needs:
        return
    from mmbuild.backends.tensorrt_llm.checks.toolchain import toolchain_checks
    from mmbuild.backends.tensorrt_llm.toolchains.load import load_toolchain
    from mmbuild.base.checks import failed_checks
    from mmbuild.config.load import load

    environments, sm = load().toolchains, gpu.first_sm()
    for version, need in needs.items():
        environment = environments.get(version)
        checks = toolchain_checks(version, environment, sm=sm, ranks=need.ranks, families=need.families)
        missing = [*failed_checks(checks), *_other_architectures(need, sm)]
        if missing:
            raise _missing(load_toolchain(version), need, missing, configured=environment is not None)


def _needs(plan: Plan) -> dict[str, _Need]:
    """Needs by version, of the recipes with a command to run."""
    running = {
        recipe
        for planned in plan.actions
        for recipe in planned.recipes
        if planned.action.step in _COMMANDS and planned.verdict in (Verdict.RUN, Verdict.UNKNOWN)
    }
    needs: dict[str, _Need] = {}
    for planned in plan.actions:
        action, recipes = planned.action, running.intersection(planned.recipes)
        if action.step == "toolchain_engine" and recipes:
            _add(needs.setdefault(action.toolchain["tensorrt-llm"], _Need()), action, recipes)
    return needs


def _add(need: _Need, action: Action, recipes: Iterable[str]) -> None:
    need.recipes.update(recipes)
    need.families.add(action.params["family"])
    need.ranks = max(need.ranks, action.params["tensor_parallel"])
    if action.target["sm"] is not None:
        need.architectures.add(action.target["sm"])


def _other_architectures(need: _Need, sm: int | None) -> Iterator[Check]:
    from mmbuild.base.checks import Check

    for other in sorted(need.architectures):
        if sm is not None and other != sm:
            yield Check(
                "target",
                "fail",
                f"target.sm is {other}",
                f"SM {sm}, this host's GPU",
                "TensorRT builds engines only for the GPU it runs on",
                f"build on a GPU with SM {other}, or remove `target.sm`",
            )


def _missing(
    toolchain: Toolchain, need: _Need, missing: list[Check], *, configured: bool
) -> ToolchainMissingError:
    version, names = toolchain.version, sorted(need.recipes)
    recipes = f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    verb = "needs" if len(names) == 1 else "need"
    remedies = _remedies(check for check in missing if configured or check.name != "environment")
    install = remedies if configured else [*_installation(toolchain), *remedies]
    return ToolchainMissingError(
        f"{recipes} {verb} TensorRT-LLM {version}, which is not ready on this host; nothing was downloaded",
        code="MM702",
        hint="`mmbuild doctor` with the same recipes checks again",
        details=(
            *_table(missing),
            "",
            "Either make it ready:",
            *(f"  {line}" for line in install),
            "or build with the embedded PyTorch engine by adding to the same command",
            "  --set engine.backend=torch",
        ),
    )


def _table(missing: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in missing)
    for check in missing:
        required = f"; required: {check.required}" if check.required else ""
        yield f"{check.name:<{width}}  {check.found}{required}"


def _remedies(missing: Iterable[Check]) -> list[str]:
    return list(dict.fromkeys(check.hint for check in missing if check.hint))


def _installation(toolchain: Toolchain) -> Iterator[str]:
    version, source = toolchain.version, toolchain.source
    place, checkout = f"~/trtllm-{version}", f"~/TensorRT-LLM-{version}"
    yield f"python3 -m venv {place}                  # Python {toolchain.python}"
    pinned = f"tensorrt_llm{toolchain.pins['tensorrt_llm']}"
    yield f"{place}/bin/pip install '{pinned}' --extra-index-url https://pypi.nvidia.com"
    yield f"git clone {source.repository} {checkout} && git -C {checkout} checkout {source.revision}"
    yield f"mmbuild config set-toolchain {version} --python {place}/bin/python --examples {checkout}"
