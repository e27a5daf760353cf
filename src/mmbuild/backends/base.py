"""What a backend is: everything that depends on which program builds and runs an engine.

A backend is one object that satisfies :class:`Backend`, and one row that names it
(:mod:`mmbuild.backends.table`). Planning, locking, checking a host, running and verifying go through it; no other
module compares a backend's name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mmbuild.base.checks import Check, Group
from mmbuild.base.diagnostics import Violation
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.steps.registry import StepSpec

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.config.model import UserConfig
    from mmbuild.core.graph.plan import Plan
    from mmbuild.schema.resolved import ResolvedRecipe

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What lowering may use besides the recipe.

    Attributes:
        target: What mmbuild's own torch runs on here, ``{"device": "cpu" | "cuda", "sm", "isa"}``. ``sm`` is that of
            this host's first GPU, also where torch cannot use it.
        digest: BLAKE3 of a user's file, 64 hexadecimal digits.
        offline: Whether to ask no hub.
    """

    target: Mapping[str, Any]
    digest: Callable[[Path], str]
    offline: bool = False
    _once: dict[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)

    def once(self, function: Callable[[K], V]) -> Callable[[K], V]:
        """``function``, called once for each argument while a plan is made: probing an environment takes seconds."""
        return self._once.setdefault(function, cache(function))


@dataclass(frozen=True, slots=True)
class Requirements:
    """What recipes of one backend need of the host, beyond memory and disk.

    Attributes:
        gpus: GPUs that one of them takes at once.
        gpus_if_any: The same, where the backend's own checks report a host without any GPU.
        extras: Extras of mmbuild's own installation, such as ``torch`` or ``mpi``.
        ranks: Processes of the largest engine that mmbuild itself starts.
        compiler: Whether packages are compiled here.
        tensorrt: Whether one has a TensorRT visual engine that mmbuild builds itself.
    """

    gpus: int = 0
    gpus_if_any: int = 0
    extras: tuple[str, ...] = ()
    ranks: int = 1
    compiler: bool = False
    tensorrt: bool = False


Pair = tuple[tuple[str, ...], str | None]
"""One prompt, perhaps none, and the paths of its pictures."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What ``mmbuild run`` asks of an engine.

    Attributes:
        pairs: Prompts with their pictures.
        max_new_tokens: Tokens of each answer; None means the engine's limit.
        sampling: ``temperature``, ``top_k``, ``top_p`` and ``seed``.
        beams: ``width`` and ``length_penalty``.
        ignore_generation_config: Whether the model's own settings are left out.
        show: ``text``, ``stream``, ``profile`` or ``json``.
    """

    pairs: Sequence[Pair]
    max_new_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    beams: Mapping[str, Any] = field(default_factory=dict)
    ignore_generation_config: bool = False
    show: str = "text"


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What ``mmbuild verify`` asks.

    Attributes:
        sources: Directories of the model's files by source (``model``, ``vision``); empty where nothing is compared.
        images: Paths of pictures; empty means the recipe's.
        prompts: Prompts; empty means the recipe's.
        max_new_tokens: Tokens of each answer; None means the recipe's number.
        out: Where the report goes.
        as_json: Whether the report is printed as JSON.
    """

    sources: Mapping[str, str]
    images: tuple[str, ...]
    prompts: tuple[str, ...]
    max_new_tokens: int | None
    out: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said to one pair; ``token_ids`` is None where only its text is known."""

    images: tuple[str, ...]
    prompt: str | None
    texts: tuple[str, ...]
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What ``mmbuild run`` prints.

    Attributes:
        answers: In the order of the pairs, each as it becomes known.
        pieces: Text of the only answer as it is decoded; None unless it is streamed.
        notes: Lines about how the pictures were read.
        profile: Lines with times and memory; empty where the engine prints its own.
        facts: What ``--json`` reports besides the answers.
    """

    answers: Iterable[Answer] = ()
    pieces: Iterable[str] | None = None
    notes: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """A built engine that can be asked. Entries are ``module:function`` names of functions that print: an engine over
    several ranks calls them in the process of rank 0."""

    @property
    def run_options(self) -> frozenset[str] | None:
        """Options of ``mmbuild run`` that it takes; None means all."""

    @property
    def verify_options(self) -> frozenset[str] | None:
        """Options of ``mmbuild verify`` that it takes; None means all."""

    @property
    def has_own_question(self) -> bool:
        """Whether it can be run without a prompt and a picture."""

    @property
    def compares(self) -> bool:
        """Whether ``verify`` compares it with the model, whose files it then needs."""

    def remarks(self, *, ignore_generation_config: bool) -> Iterable[str]:
        """Warnings and notes about what the engine does not do as the model says."""

    def run(self, request: RunRequest, show: str) -> None:
        """Ask the engine; ``show`` is an entry that takes :class:`Answers` and ``request.show``."""

    def verify(self, request: VerifyRequest, compare: str) -> Iterable[str]:
        """Check the engine; returns lines to print.

        ``compare`` is an entry that loads the engine, compares it with transformers and prints a report. It takes the
        directory as ``build`` and the fields of ``request``.

        Raises:
            MmbuildError: The check failed.
        """


class Backend(Protocol):
    """A program that builds and runs engines."""

    @property
    def name(self) -> str:
        """What ``engine.backend`` of a recipe says."""

    @property
    def steps(self) -> Mapping[str, StepSpec]:
        """Steps that the built-in table does not have, by name."""

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """What of a valid recipe this backend cannot build, or builds with a warning."""

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Whether a plan of ``variant`` follows from files alone, not from what an environment has installed."""

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """The actions that build ``variant``.

        Raises:
            MmbuildError: It cannot be built here, or a source cannot be identified.
        """

    def environment(self, variant: ResolvedRecipe) -> str:
        """What a lock calls the environment that builds ``variant``."""

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """Versions that the result of ``actions`` depends on and that are not among the versions in their keys."""

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """What else identifies that environment, such as the digest of a container's image."""

    def require_ready(self, plan: Plan) -> None:
        """Refuse a plan whose actions cannot run here, before anything is downloaded.

        Raises:
            MmbuildError: With what is missing.
        """

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """What ``variants`` need of this host; ``device`` is built for where a recipe states none."""

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """Checks of environments outside mmbuild's own.

        Args:
            variants: Recipes that use them; None means all environments in ``config``.
            sm: Compute capability of this host's GPU, such as 90; None without one.
            config: The user's configuration.
        """

    def open(self, build: Path, description: Description, report: Callable[[str], None]) -> Runner:
        """The engine in the directory ``build``, which is not loaded yet; ``report`` takes lines about progress."""

    def compatibility(self, build: Path, description: Description) -> Iterable[Check]:
        """What an engine needs to load, compared with this host. Nothing is loaded."""
