"""What recipes need of this host: what their backends say, and what a plan of them would run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmbuild.backends.base import Requirements
from mmbuild.backends.table import backend

if TYPE_CHECKING:
    from mmbuild.core.graph.action import Action
    from mmbuild.schema.resolved import ResolvedRecipe


@dataclass(frozen=True, slots=True)
class Needs:
    """What a set of recipes needs.

    Attributes:
        variants: The recipes.
        software: What their backends need, all together.
        sms: Compute capabilities that recipes state, such as 90.
        memory: Bytes of host memory of the largest action that would run.
        disk: Bytes that the actions that would run write.
    """

    variants: tuple[ResolvedRecipe, ...] = ()
    software: Requirements = field(default_factory=Requirements)
    sms: frozenset[int] = frozenset()
    memory: int = 0
    disk: int = 0

    @property
    def recipes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(item.name for item in self.variants)


def needs(variants: Sequence[ResolvedRecipe], todo: Iterable[Action], device: str) -> Needs:
    """What ``variants`` need.

    Args:
        variants: Validated recipes.
        todo: Actions that an apply of them would run.
        device: ``cpu`` or ``cuda``: what this host builds for where a recipe states nothing.
    """
    actions = list(todo)
    stated = [item.recipe.target for item in variants if item.recipe.target is not None]
    return Needs(
        tuple(variants),
        merged(backend(name).requirements(using, device) for name, using in by_backend(variants).items()),
        sms=frozenset(target.sm for target in stated if target.sm is not None),
        memory=max((action.resources.memory for action in actions), default=0),
        disk=sum(action.resources.disk for action in actions),
    )


def by_backend(variants: Iterable[ResolvedRecipe]) -> dict[str, list[ResolvedRecipe]]:
    """``variants`` by the name of their backend."""
    found: dict[str, list[ResolvedRecipe]] = {}
    for item in variants:
        found.setdefault(str(item.recipe.engine.backend), []).append(item)
    return found


def merged(requirements: Iterable[Requirements]) -> Requirements:
    """What satisfies all of ``requirements``."""
    items = [Requirements(), *requirements]
    return Requirements(
        gpus=max(item.gpus for item in items),
        gpus_if_any=max(item.gpus_if_any for item in items),
        extras=tuple(dict.fromkeys(extra for item in items for extra in item.extras)),
        ranks=max(item.ranks for item in items),
        compiler=any(item.compiler for item in items),
        tensorrt=any(item.tensorrt for item in items),
    )
