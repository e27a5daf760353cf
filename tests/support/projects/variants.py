"""Made-up variants whose actions overlap, as a hypothesis strategy."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from mmbuild.core.graph.action import Action, RecipeGraph, Resources
from mmbuild.core.graph.keys import make_action
from mmbuild.team.ci.jobs import closure
from mmbuild.team.ci.variants import Variant

_NAMES = ("red", "red-int8", "red-int4", "green", "green-int8", "blue", "blue-tp2", "red-tp2")


def variant(name: str, actions: dict[str, Action], required: list[str]) -> Variant:
    """A variant that needs ``required`` of ``actions`` and assembles them."""
    parts = closure(actions, required)
    own = make_action(
        label=f"{name}/assemble",
        step="assemble",
        version="1",
        params={"name": name},
        inputs={f"part{number}": key for number, key in enumerate(required)},
        resources=Resources(seconds=1.0),
    )
    return Variant(name, Path(f"{name}.yaml"), RecipeGraph(name, (*parts, own), own.definition_key), None)


@st.composite
def variants(draw) -> list[Variant]:
    """One to eight variants over a random graph of up to twelve actions."""
    actions: dict[str, Action] = {}
    for number in range(draw(st.integers(1, 12))):
        known = list(actions)
        above = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
        action = make_action(
            label=f"pool/step{number}",
            step="convert" if above else "download",
            version="1",
            params={"number": number},
            inputs={f"input{place}": key for place, key in enumerate(above)},
            resources=Resources(seconds=float(draw(st.integers(1, 100)))),
        )
        actions[action.definition_key] = action
    return [
        variant(
            name, actions, draw(st.lists(st.sampled_from(list(actions)), min_size=1, max_size=4, unique=True))
        )
        for name in _NAMES[: draw(st.integers(1, len(_NAMES)))]
    ]
