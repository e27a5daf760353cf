"""Schema of the files ``toolchain``, ``commands``, ``unsupported`` and ``notes`` of a version.

Strings marked *template* are Jinja2 templates; strings marked *condition* are Jinja2 expressions. Both may use only
the names in :mod:`mmbuild.backends.tensorrt_llm.toolchains.template_context`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmbuild.schema.model import Algorithm, Family

Step = Literal["download", "prepare", "convert", "quantize", "build_llm", "build_visual", "run"]
Mode = Literal["run", "profile", "check_accuracy"]
Group = tuple[str, ...]


class Part(BaseModel):
    """Base of all parts: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def entries(content: Any) -> Any:
    """The values of a mapping: files name the entries of a list, so that other versions can change them."""
    return tuple(content.values()) if isinstance(content, Mapping) else content


def _named(content: Any) -> Any:
    return tuple({"name": key, **entry} for key, entry in content.items())


def _groups(content: Any) -> Any:
    return tuple(_named_groups(content)) if isinstance(content, Mapping) else content


def _named_groups(content: Mapping[str, Any]) -> Iterator[Any]:
    """A key that begins with ``-`` is part of its group; any other only names one or several."""
    for key, value in content.items():
        if isinstance(value, Mapping) and "when" in value:
            yield {"when": value["when"], "add": _groups({k: v for k, v in value.items() if k != "when"})}
        elif isinstance(value, Mapping):
            yield from _named_groups(value)
        else:
            yield (*([key] if key.startswith("-") else []), *([value] if isinstance(value, str) else value))


class Source(Part):
    """Source of the example scripts."""

    repository: str
    revision: str = Field(description="Tag or commit that the commands were written for")


class ReservedWord(Part):
    """A word in a model directory's name from which the scripts infer a family."""

    word: str
    family: Family


class FamilyEntry(Part):
    """A version's settings for one family.

    Attributes:
        weights: What the converter reads: ``model`` (the model's single source), ``text`` (only the text model; the
            visual side has a second source) or ``whole`` (the checkpoint that contains both).
        visual_type: ``--model_type`` of the visual builder.
        visual_types: The same by second source, if the builder itself fetches the visual tower by that type.
        prompt: Default question if the recipe has none; None if the model takes no text.
        prompt_template: Prompt passed to ``run.py`` for a question of the recipe; template over ``question``.
        code: Repository of model code that the scripts import, cloned into ``code_dir``.
        model_files: JSON files that scripts read in the model's directory but models may not have, by name.
        requirements: Requirement lines in addition to the version's pins.
        paths: Overrides of the version's paths.
    """

    weights: Literal["model", "text", "whole"] = "model"
    visual_type: str | None = None
    visual_types: dict[str, str] = {}
    prompt: str | None = None
    prompt_template: str = "{{ question }}"
    code: str | None = None
    model_files: dict[str, dict[str, Any]] = {}
    requirements: tuple[str, ...] = ()
    paths: dict[str, str] = {}


class When(Part):
    """Conditional arguments."""

    when: str
    add: tuple[Group, ...]


class Edit(Part):
    """An edit of one file of third-party code, which applies only if the file still contains the expected text.

    Attributes:
        file: Relative to the working directory; template.
        find: Text that must be present.
        replace: Replacement of every occurrence.
        after: Instead of ``replace``: a line to insert after each line that contains ``find``.
    """

    file: str
    find: str
    replace: str | None = None
    after: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Edit:
        if (self.replace is None) == (self.after is None):
            raise ValueError("an edit needs exactly one of `replace` and `after`")
        return self


class CommandEntry(Part):
    """A command for some families and algorithms.

    Attributes:
        name: Unique among the commands of one recipe.
        step: Kind of work.
        comment: One line for readers of a script; template.
        families: Families to which it applies.
        algorithms: Quantizations to which it applies; default all.
        when: Condition; default always.
        modes: Only for ``run`` commands: the command is repeated for each of these, available as ``mode``.
        argv: Arguments in groups (a flag with its value); templates.
        environment: Environment variables; templates.
        products: Files and directories it must write; templates. Those that use ``rank`` exist once per rank.
        once: If this directory exists, scripts skip the command; template.
        edit: The file edit that the command makes. mmbuild applies it itself, with checks, instead of running the
            command.
        script_only: Whether only scripts need it.
    """

    name: str
    step: Step
    comment: str
    families: tuple[Family, ...]
    algorithms: tuple[Algorithm, ...] = tuple(Algorithm)
    when: str = "true"
    modes: tuple[Mode, ...] = ()
    argv: Annotated[tuple[Group | When, ...], BeforeValidator(_groups)]
    environment: dict[str, str] = {}
    products: tuple[str, ...] = ()
    once: str | None = None
    edit: Edit | None = None
    script_only: bool = False


class Unsupported(Part):
    """What a version cannot build.

    Attributes:
        code: MM603 (quantization), MM604 (a model in this form) or MM605 (a number beyond a limit).
        blame: Dotted recipe keys responsible, the most likely first.
        families: Families to which it applies.
        algorithms: Quantizations to which it applies; default all.
        when: Condition; default always.
        of_quantizer: Whether only the version's own quantizer fails, not its builder or runtime; such an entry does
            not apply if mmbuild calibrates instead.
        reason: Why, one sentence without a full stop; template.
        hint: What to do instead; template.
        evidence: Source of the claim.
    """

    code: Literal["MM603", "MM604", "MM605"]
    blame: Annotated[tuple[str, ...], Field(min_length=1)]
    families: tuple[Family, ...]
    algorithms: tuple[Algorithm, ...] = tuple(Algorithm)
    when: str = "true"
    of_quantizer: bool = False
    reason: str
    hint: str
    evidence: str


class Note(Part):
    """Information for readers of the commands; not an error.

    Attributes:
        families: Families to which it applies.
        when: Condition; default always.
        text: The note; template.
        warn: Recipe key to report the note at, as a warning before anything runs (MM642).
    """

    families: tuple[Family, ...]
    when: str = "true"
    text: str
    warn: str | None = None


class Toolchain(Part):
    """One version of TensorRT-LLM.

    Attributes:
        version: Version as written in recipes.
        facts: Sources of the file.
        source: The example scripts.
        python: Supported Python versions, as a specifier.
        pins: Version specifiers by package.
        workdir: Working directory of commands, relative to the checkout.
        reserved: Words in names that the scripts interpret.
        precisions: Directory names by algorithm; ``none`` has one per dtype.
        qformats: ``--qformat`` by algorithm that its quantizer supports.
        paths: Names of directories and scripts; later ones may use earlier ones; templates.
        families: Settings by family.
        commands: Commands in execution order.
        unsupported: What it cannot build.
        notes: Notes for readers.
    """

    version: str
    facts: str
    source: Source
    python: str
    pins: dict[str, str]
    workdir: str
    reserved: tuple[ReservedWord, ...] = ()
    precisions: dict[str, str]
    qformats: dict[str, str] = {}
    paths: dict[str, str]
    families: dict[Family, FamilyEntry]
    commands: Annotated[tuple[CommandEntry, ...], Field(min_length=1), BeforeValidator(_named)]
    unsupported: Annotated[tuple[Unsupported, ...], BeforeValidator(entries)] = ()
    notes: Annotated[tuple[Note, ...], BeforeValidator(entries)] = ()
