"""The backend interface: everything that depends on which program builds and runs an engine.

A backend is one object that satisfies :class:`Backend`, registered under its name in
:mod:`mmbuild.backends.table`. Planning, locking, host checks, running and verifying go through it; no other module
compares backend names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from mmbuild.base.checks import Check, Group
from mmbuild.base.diagnostics import Violation
from mmbuild.base.entries import load_entry
from mmbuild.base.pins import NO_PINS, Pins
from mmbuild.core.graph.action import Action, RecipeGraph
from mmbuild.core.steps.registry import StepSpec

if TYPE_CHECKING:
    from mmbuild.backends.comparison import Comparison
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.config.model import UserConfig
    from mmbuild.core.graph.plan import Plan
    from mmbuild.models.families.processor import Processor, Request
    from mmbuild.models.families.reference import Continuation
    from mmbuild.schema.resolved import ResolvedRecipe

P = ParamSpec("P")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class PlanContext:
    """Inputs of lowering besides the recipe.

    Attributes:
        target: What mmbuild's own torch runs on here, ``{"device": "cpu" | "cuda", "sm", "isa"}``. ``sm`` is that of
            this host's first GPU, even if torch cannot use it.
        digest: Returns the BLAKE3 digest of a user's file, 64 hexadecimal digits.
        offline: Whether hub requests are forbidden.
        pins: Versions and commits from a lock, in place of those installed here and on the hub.
    """

    target: Mapping[str, Any]
    digest: Callable[[Path], str]
    offline: bool = False
    pins: Pins = NO_PINS
    _once: dict[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)

    def once(self, function: Callable[P, V]) -> Callable[P, V]:
        """``function``, cached per arguments for one plan: probing an environment takes seconds."""
        return self._once.setdefault(function, cache(function))


@dataclass(frozen=True, slots=True)
class Requirements:
    """Host requirements of a backend's recipes, other than memory and disk.

    Attributes:
        gpus: Most GPUs that a single recipe uses at once.
        gpus_if_any: The same, for backends whose own checks already report a host without a GPU.
        extras: Required extras of mmbuild, such as ``torch`` or ``mpi``.
        ranks: Most processes that mmbuild starts for one engine.
        compiler: Whether packages are compiled on this host.
        tensorrt: Whether mmbuild itself builds a TensorRT visual engine for one of them.
    """

    gpus: int = 0
    gpus_if_any: int = 0
    extras: tuple[str, ...] = ()
    ranks: int = 1
    compiler: bool = False
    tensorrt: bool = False


Pair = tuple[tuple[str, ...], str | None]
"""Image paths and an optional prompt."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Parameters of ``mmbuild run``.

    Attributes:
        pairs: Prompts with their images.
        max_new_tokens: Maximum length of each answer; None means the engine's limit.
        sampling: ``temperature``, ``top_k``, ``top_p`` and ``seed``.
        beams: ``width`` and ``length_penalty``.
        ignore_generation_config: Whether to ignore the model's own generation settings.
        show: ``text``, ``stream``, ``profile`` or ``json``.
        batch: Most pairs to run at once; None runs all of them as one batch.
        context: Further keyword arguments of the function that shows answers, plain JSON data.
        interruptible: Whether that function handles KeyboardInterrupt while it takes answers.
    """

    pairs: Sequence[Pair]
    max_new_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    beams: Mapping[str, Any] = field(default_factory=dict)
    ignore_generation_config: bool = False
    show: str = "text"
    batch: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    interruptible: bool = False


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Parameters of ``mmbuild verify``.

    Attributes:
        sources: Directories of the model's files by source (``model``, ``vision``); empty if nothing is compared.
        images: Paths of images; empty means the recipe's.
        prompts: Prompts; empty means the recipe's.
        max_new_tokens: Maximum length of each answer; None means the recipe's value.
        out: Path of the report.
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
    """An engine's answer to one pair; ``token_ids`` is None if only the text is known.

    ``notes`` are lines about how its images were read, if the request has batches.
    """

    images: tuple[str, ...]
    prompt: str | None
    texts: tuple[str, ...]
    token_ids: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """Output of ``mmbuild run``.

    Attributes:
        answers: In the order of the pairs, each yielded as soon as it is complete.
        pieces: Text of the single answer as it is decoded; None unless streaming.
        notes: Lines about how the images were read.
        profile: Lines with times and memory; empty if the engine prints its own.
        facts: Further fields of the ``--json`` output.
    """

    answers: Iterable[Answer] = ()
    pieces: Iterable[str] | None = None
    notes: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def present(answers: Answers, request: RunRequest, show: str) -> None:
    """Call the function ``show`` (``module:function``) with ``answers``, ``request.show`` and ``request.context``."""
    load_entry(show)(answers, request.show, **request.context)


class Answering(Protocol):
    """A loaded engine, as it is compared with the original model."""

    @property
    def description(self) -> Description:
        """Content of its ``engine.json``."""

    @property
    def processor(self) -> Processor:
        """The model's processor."""

    @property
    def dtype(self) -> str:
        """Number format of what is not quantized, as in recipes."""

    @property
    def quant_algo(self) -> str | None:
        """Name of its quantization; None if there is none."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images, pixels."""

    @property
    def max_output_len(self) -> int:
        """Most tokens of an answer."""

    def encode(self, images: Sequence[Any], prompts: Sequence[str | None]) -> list[Request]:
        """Tokenize prompts and preprocess their images, one image or list of images for each prompt.

        Raises:
            EngineError: The model cannot take them.
        """

    def text(self, ids: Sequence[int]) -> str:
        """Decode token ids to text without special tokens, and without white space at its ends."""

    def compare(self, request: Request, reference: Continuation, max_new_tokens: int) -> Comparison:
        """Answer ``request`` greedily with at most ``max_new_tokens`` tokens, and compare with ``reference``.

        Raises:
            EngineError: MM591, logits of either side are NaN.
        """


@dataclass(frozen=True, slots=True)
class OwnServer:
    """How another program serves an engine.

    Attributes:
        command: The command that starts it.
        remark: What the command sets differently from the recipe, and why; empty if nothing.
    """

    command: str
    remark: str = ""


class Runner(Protocol):
    """Runs a built engine. Output functions are passed as ``module:function`` names, because a multi-rank engine
    calls them in the process of rank 0."""

    @property
    def run_options(self) -> frozenset[str] | None:
        """Options of ``mmbuild run`` that it supports; None means all."""

    @property
    def verify_options(self) -> frozenset[str] | None:
        """Options of ``mmbuild verify`` that it supports; None means all."""

    @property
    def has_own_question(self) -> bool:
        """Whether it can run without a prompt and an image."""

    @property
    def compares(self) -> bool:
        """Whether ``verify`` compares it with the original model and so needs the model's files."""

    @property
    def own_server(self) -> OwnServer | None:
        """How the engine is served; None: mmbuild loads it, as :class:`mmbuild.backends.torch.Engine`."""

    def load(self) -> Answering:
        """The engine, loaded in this process or rank; only for engines that are compared."""

    def remarks(self, *, ignore_generation_config: bool) -> Iterable[str]:
        """Warnings and notes about model settings that the engine does not follow."""

    def run(self, request: RunRequest, show: str) -> None:
        """Run the engine; ``show`` names a function that :func:`present` calls."""

    def verify(self, request: VerifyRequest, compare: str) -> Iterable[str]:
        """Verify the engine; returns lines to print.

        ``compare`` names a function that loads the engine, compares it with transformers and prints a report. It
        takes the engine directory as ``build`` and the fields of ``request``.

        Raises:
            MmbuildError: The check failed.
        """


class Backend(Protocol):
    """A program that builds and runs engines."""

    @property
    def name(self) -> str:
        """The value of ``engine.backend`` that selects it."""

    @property
    def steps(self) -> Mapping[str, StepSpec]:
        """Additional steps by name, not in the built-in table."""

    def check(self, variant: ResolvedRecipe) -> Iterable[Violation]:
        """Errors and warnings for a valid recipe: what this backend cannot build, or builds with a caveat."""

    def cacheable(self, variant: ResolvedRecipe) -> bool:
        """Whether a plan of ``variant`` depends on files alone, not on packages installed in an environment."""

    def lower(self, variant: ResolvedRecipe, context: PlanContext) -> RecipeGraph:
        """The actions that build ``variant``.

        Raises:
            MmbuildError: ``variant`` cannot be built here, or a source cannot be identified.
        """

    def environment(self, variant: ResolvedRecipe) -> str:
        """Name, in lock files, of the environment that builds ``variant``."""

    def environment_packages(self, actions: Sequence[Action]) -> Mapping[str, str]:
        """Package versions that affect the result of ``actions`` and are not part of their keys."""

    def environment_facts(self, variant: ResolvedRecipe) -> Mapping[str, str]:
        """Further facts that identify that environment, such as the digest of a container image."""

    def require_ready(self, plan: Plan) -> None:
        """Reject a plan whose actions cannot run here, before anything is downloaded.

        Raises:
            MmbuildError: Something is missing; the message lists it.
        """

    def requirements(self, variants: Sequence[ResolvedRecipe], device: str) -> Requirements:
        """Host requirements of ``variants``; ``device`` applies to recipes that do not set one."""

    def host_checks(
        self, variants: Sequence[ResolvedRecipe] | None, sm: int | None, config: UserConfig
    ) -> Iterable[Group]:
        """Checks of environments other than mmbuild's own.

        Args:
            variants: Recipes to check for; None checks all environments in ``config``.
            sm: Compute capability of this host's GPU, such as 90; None without one.
            config: The user's configuration.
        """

    def open(self, build: Path, description: Description, report: Callable[[str], None]) -> Runner:
        """Runner for the engine in directory ``build``, not loaded yet; ``report`` receives progress lines."""

    def compatibility(self, build: Path, description: Description) -> Iterable[Check]:
        """Compares what an engine needs to load with this host. Nothing is loaded."""

    def script(self, variants: Sequence[ResolvedRecipe]) -> str | None:
        """A shell script that uses the builds of ``variants`` without mmbuild; None: ``mmbuild script`` writes the
        commands that build them with TensorRT-LLM."""
