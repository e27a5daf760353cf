"""The form of a toolchain file.

Strings marked *template* are Jinja2; strings marked *condition* are Jinja2 expressions. Both may name what
:mod:`mmbuild.backends.tensorrt_llm.toolchains.template_context` lists, and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmbuild.schema.model import Algorithm, Family

Step = Literal["download", "prepare", "convert", "quantize", "build_llm", "build_visual", "run"]
Mode = Literal["run", "profile", "check_accuracy"]
Group = tuple[str, ...]


class Part(BaseModel):
    """Base of all parts: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Part):
    """Where the example scripts are."""

    repository: str
    revision: str = Field(description="Tag or commit that the scripts were read at")


class ReservedWord(Part):
    """A word in a model directory's name that the scripts take as a sign of a family."""

    word: str
    family: Family


class FamilyEntry(Part):
    """What a version says about one family.

    Attributes:
        weights: What the converter reads: ``model`` (the model's one source), ``text`` (the text model alone, with
            a second source for the visual side) or ``whole`` (the checkpoint that holds both).
        visual_type: ``--model_type`` of the visual builder.
        visual_types: The same, by second source, where the builder fetches the tower itself by that word.
        prompt: Question asked where the recipe has none; None where the model takes no text.
        prompt_template: How a question of the recipe is given to ``run.py``; template over ``question``.
        code: Repository of model code that the scripts import, cloned into ``code_dir``.
        model_files: JSON files that scripts read in the model's directory and that models may lack, by name.
        requirements: Requirement lines on top of the version's pins.
        paths: Instead of the version's.
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
    """Arguments that are there under a condition."""

    when: str
    add: tuple[Group, ...]


class Edit(Part):
    """A change of one file of somebody else's code, which holds only where the text is as it was read.

    Attributes:
        file: Below the directory that commands run in; template.
        find: Text that must be there.
        replace: What takes its place, everywhere.
        after: Instead of ``replace``: a line put after each line that holds ``find``.
    """

    file: str
    find: str
    replace: str | None = None
    after: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Edit:
        if (self.replace is None) == (self.after is None):
            raise ValueError("an edit replaces, or puts a line after")
        return self


class CommandEntry(Part):
    """A command for some families and algorithms.

    Attributes:
        name: Unique among the commands of one recipe.
        step: What kind of work it is.
        comment: One line for readers of a script; template.
        families: Families it is for.
        algorithms: Quantizations it is for; all where left out.
        when: Condition; always where left out.
        modes: ``run`` alone, or once for each mode; ``mode`` names it.
        argv: Arguments in groups that belong together (a flag and its value); templates.
        environment: Variables set for it; templates.
        products: Files and directories it must leave; templates. Those that name ``rank`` are there once for each
            rank.
        once: Directory that makes the command needless, where work is not repeated; template.
        edit: What the command changes in a file. mmbuild makes that change itself, checked, and does not run it.
        script_only: Whether it is of no use but in a script.
    """

    name: str
    step: Step
    comment: str
    families: tuple[Family, ...]
    algorithms: tuple[Algorithm, ...] = tuple(Algorithm)
    when: str = "true"
    modes: tuple[Mode, ...] = ()
    argv: tuple[Group | When, ...]
    environment: dict[str, str] = {}
    products: tuple[str, ...] = ()
    once: str | None = None
    edit: Edit | None = None
    script_only: bool = False


class Unsupported(Part):
    """What a version cannot build.

    Attributes:
        code: MM603 (quantization), MM604 (a model in this form) or MM605 (a number beyond a limit).
        blame: Dotted keys of the recipe that ask for it, the most likely culprit first.
        families: Families it holds for.
        algorithms: Quantizations it holds for; all where left out.
        when: Condition; always where left out.
        of_quantizer: Whether it is the version's own making of a quantized checkpoint alone that fails, and neither
            its builder nor its runtime: then it does not hold where mmbuild calibrates in its place.
        reason: Why, one sentence without a full stop; template.
        way: What to do instead; template.
        evidence: Where that is known from.
    """

    code: Literal["MM603", "MM604", "MM605"]
    blame: Annotated[tuple[str, ...], Field(min_length=1)]
    families: tuple[Family, ...]
    algorithms: tuple[Algorithm, ...] = tuple(Algorithm)
    when: str = "true"
    of_quantizer: bool = False
    reason: str
    way: str
    evidence: str


class Note(Part):
    """What a reader of the commands should know; no fault.

    Attributes:
        families: Families it holds for.
        when: Condition; always where left out.
        text: What; template.
        warn: Key of a recipe to point at, where the note should be told before anything runs (MM642).
    """

    families: tuple[Family, ...]
    when: str = "true"
    text: str
    warn: str | None = None


class Toolchain(Part):
    """One version of TensorRT-LLM.

    Attributes:
        version: As recipes name it.
        facts: What the file was made from.
        source: The example scripts.
        python: Versions of Python that work, as a specifier.
        pins: Package to version specifier.
        workdir: Directory of the checkout that commands run in.
        reserved: Words in names that mean something to the scripts.
        precisions: Directory word of an algorithm; ``none`` has one for each dtype.
        qformats: ``--qformat`` of the algorithms that its quantizer makes.
        paths: Names of directories and scripts, in an order in which later ones may use earlier ones; templates.
        families: What differs by family.
        commands: In the order in which they run.
        unsupported: What it cannot build.
        notes: What should be known.
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
    commands: Annotated[tuple[CommandEntry, ...], Field(min_length=1)]
    unsupported: tuple[Unsupported, ...] = ()
    notes: tuple[Note, ...] = ()
