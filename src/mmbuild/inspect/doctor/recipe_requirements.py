"""What recipes require from this host, according to their backends and to their plan."""

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
    """The requirements of a set of recipes.

    Attributes:
        variants: The recipes.
        software: The merged requirements of their backends.
        sms: Compute capabilities set in recipes, such as 90.
        memory: Host memory in bytes of the largest action that would run.
        disk: Bytes written by the actions that would run.
    """

    variants: tuple[ResolvedRecipe, ...] = ()
    software: Requirements = field(default_factory=Requirements)
    sms: frozenset[int] = frozenset()
    memory: int = 0
    disk: int = 0

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of the variants."""
        return tuple(item.name for item in self.variants)


def needs(variants: Sequence[ResolvedRecipe], todo: Iterable[Action], device: str) -> Needs:
    """The requirements of ``variants``.

    Args:
        variants: Validated recipes.
        todo: Actions that an apply would run.
        device: ``cpu`` or ``cuda``: the default target of this host.
    """
    actions = list(todo)
    targets = [item.recipe.target for item in variants if item.recipe.target is not None]
    return Needs(
        tuple(variants),
        merged(backend(name).requirements(users, device) for name, users in by_backend(variants).items()),
        sms=frozenset(target.sm for target in targets if target.sm is not None),
        memory=max((action.resources.memory for action in actions), default=0),
        disk=sum(action.resources.disk for action in actions),
    )


def by_backend(variants: Iterable[ResolvedRecipe]) -> dict[str, list[ResolvedRecipe]]:
    """``variants`` by the name of their backend."""
    grouped: dict[str, list[ResolvedRecipe]] = {}
    for item in variants:
        grouped.setdefault(str(item.recipe.engine.backend), []).append(item)
    return grouped


def merged(requirements: Iterable[Requirements]) -> Requirements:
    """Requirements that satisfy all of ``requirements``."""
    items = [Requirements(), *requirements]
    return Requirements(
        gpus=max(item.gpus for item in items),
        gpus_if_any=max(item.gpus_if_any for item in items),
        extras=tuple(dict.fromkeys(extra for item in items for extra in item.extras)),
        ranks=max(item.ranks for item in items),
        compiler=any(item.compiler for item in items),
        tensorrt=any(item.tensorrt for item in items),
    )
