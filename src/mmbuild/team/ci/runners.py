"""Machine requirements of a job, and the labels of matching CI runners."""

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
"""Default labels by kind of machine; GitLab's shared runners accept jobs without tags."""

_FIELDS = ("gpus", "sm", "memory_gib")


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine requirements of a job.

    Attributes:
        gpus: Number of GPUs.
        sm: Compute capability (90); None without a GPU, or if the plan does not specify it.
        memory_gib: Host memory for the largest action, rounded up to a power of two.
    """

    gpus: int
    sm: int | None
    memory_gib: int

    @property
    def kind(self) -> str:
        return "gpu" if self.gpus else "cpu"


def machine_for(actions: Iterable[Action]) -> Machine:
    """Return the requirements for running ``actions`` one after another."""
    gpus, memory, sm = 0, 0, None
    for action in actions:
        gpus = max(gpus, action.resources.gpus)
        memory = max(memory, action.resources.memory)
        if action.resources.gpus:
            sm = sm or action.target.get("sm")
    whole = -(-memory // GIB)
    return Machine(gpus, sm, 1 << max(0, whole - 1).bit_length())


def labels(machine: Machine, runners: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the runner labels for ``machine``; a label with a field that has no value is left out."""
    facts = asdict(machine)
    return [
        label.format(**facts)
        for label in runners[machine.kind]
        if all(facts[name] is not None for name in _field_names(label))
    ]


def parse_runners(given: Iterable[str], default: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Parse ``KIND=LABEL,LABEL`` options, which override ``default``; KIND is ``cpu`` or ``gpu``.

    Raises:
        UsageError: MM815.
    """
    runners = dict(default)
    for text in given:
        kind, equals, rest = text.partition("=")
        words = tuple(word.strip() for word in rest.split(",") if word.strip())
        if not equals or kind not in default or not words:
            raise _invalid(text, f"expected KIND=LABEL,... with KIND one of {', '.join(default)}")
        for word in words:
            try:
                unknown = [name for name in _field_names(word) if name not in _FIELDS]
            except ValueError as error:
                raise _invalid(text, str(error)) from error
            if unknown:
                raise _invalid(text, f"`{{{unknown[0]}}}` is not one of {', '.join(_FIELDS)}")
        runners[kind] = words
    return runners


def _field_names(label: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(label) if name is not None]


def _invalid(text: str, problem: str) -> UsageError:
    return UsageError(
        f"invalid --runner `{text}`: {problem}",
        code="MM815",
        hint="for example --runner cpu=ubuntu-latest --runner 'gpu=self-hosted,sm{sm},x{gpus}'",
    )
