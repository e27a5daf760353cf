"""What a job needs of a machine, and the labels of runners that have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from string import Formatter
from types import MappingProxyType

from mmbuild.base.errors import UsageError
from mmbuild.core.graph.action import Action

GIB = 1 << 30
GITHUB: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("ubuntu-latest",), "gpu": ("self-hosted", "gpu", "sm{sm}")}
)
GITLAB: Mapping[str, tuple[str, ...]] = MappingProxyType({"cpu": (), "gpu": ("gpu", "sm{sm}")})
"""Labels by kind of machine; GitLab's shared runners take jobs without tags."""

_FIELDS = ("gpus", "sm", "memory_gib")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job needs.

    Attributes:
        gpus: How many.
        sm: Their compute capability (90); None without a GPU, or where the plan does not say.
        memory_gib: Of the host, rounded up to a power of two, for its largest action.
    """

    gpus: int
    sm: int | None
    memory_gib: int

    @property
    def kind(self) -> str:
        return "gpu" if self.gpus else "cpu"


def machine_for(actions: Iterable[Action]) -> Machine:
    """What all of ``actions`` need, one after the other."""
    gpus, memory, sm = 0, 0, None
    for action in actions:
        gpus = max(gpus, action.resources.gpus)
        memory = max(memory, action.resources.memory)
        if action.resources.gpus:
            sm = sm or action.target.get("sm")
    whole = -(-memory // GIB)
    return Machine(gpus, sm, 1 << max(0, whole - 1).bit_length())


def labels(machine: Machine, runners: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels of runners that ``machine`` stands for; one that names something unknown is left out."""
    facts = asdict(machine)
    return [
        label.format(**facts)
        for label in runners[machine.kind]
        if all(facts[name] is not None for name in _named(label))
    ]


def parse_runners(given: Iterable[str], default: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """``KIND=LABEL,LABEL`` over ``default``; KIND is ``cpu`` or ``gpu``.

    Raises:
        UsageError: MM815.
    """
    runners = dict(default)
    for text in given:
        kind, equals, rest = text.partition("=")
        words = tuple(word.strip() for word in rest.split(",") if word.strip())
        if not equals or kind not in default or not words:
            raise _wrong(text, f"it must be KIND=LABEL,..., and KIND one of {', '.join(default)}")
        for word in words:
            try:
                unknown = [name for name in _named(word) if name not in _FIELDS]
            except ValueError as error:
                raise _wrong(text, str(error)) from error
            if unknown:
                raise _wrong(text, f"`{{{unknown[0]}}}` is none of {', '.join(_FIELDS)}")
        runners[kind] = words
    return runners


def _named(label: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(label) if name is not None]


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(
        f"--runner `{text}` means nothing: {why}",
        code="MM815",
        hint="Write it like --runner cpu=ubuntu-latest --runner 'gpu=self-hosted,sm{sm},x{gpus}'",
    )
