"""The form of ``rules.yaml`` and ``tensors.yaml``.

Strings marked *template* are Jinja2, those marked *expression* are Jinja2 expressions. Both may name what
:mod:`mmbuild.backends.tensorrt_llm.toolchains.template_context` lists, ``rank`` (in names of rank files), ``part``
(facts of the encoder or the decoder), ``version`` and what a rule's own ``names`` add. Strings marked *pattern* hold
``{layer}`` and ``{rank}``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from mmbuild.schema.model import Algorithm, Family
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED

Code = Literal["MM653", "MM654", "MM655", "MM656", "MM657", "MM658", "MM662"]
PartName = Literal["encoder", "llm"]


class Entry(BaseModel):
    """Base of all parts: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(Entry):
    """One value of a config.json.

    Attributes:
        key: Keys from the outside in, joined by dots.
        value: What must stand there; a list means any of its items. A key that is not there counts as null.
            Expression.
        begins: Whether it is enough that the text begins so.
        code: Of the finding.
    """

    key: str
    value: str
    begins: bool = False
    code: Code


class Group(Entry):
    """A named group of expectations.

    Attributes:
        group: Its name.
        below: Key that holds all of its keys, or nothing.
    """

    group: str
    below: str = ""


class Rule(Entry):
    """What some commands leave in one directory.

    Attributes:
        commands: Names of commands.
        families: Families it holds for.
        toolchains: Versions it holds for.
        part: Whose facts ``part`` are.
        directory: Below the directory that the command runs in; template.
        ranks: Name of a rank's file; template over ``rank``. Other files that end so are of an earlier build.
        checkpoint: Directory whose rank files the command reads; template.
        config: Expectations of ``config.json``; none are read where empty.
        tensors: Table of the tensors that each rank file must hold.
        raw: Table of the raw files that must be there.
        names: More names for expressions; expressions.
    """

    commands: tuple[str, ...]
    families: tuple[Family, ...]
    toolchains: tuple[str, ...] = SUPPORTED
    part: PartName = "llm"
    directory: str
    ranks: str | None = None
    checkpoint: str | None = None
    config: tuple[Group, ...] = ()
    tensors: str | None = None
    raw: str | None = None
    names: dict[str, str] = {}


class LogPattern(Entry):
    """What a code means for whoever reads a finding: why it matters, and what to do. No full stops."""

    why: str
    way: str


class Rules(Entry):
    """``rules.yaml``.

    Attributes:
        quant_algos: What config.json may call each quantization; null is none.
        tellings: Texts by code.
        expectations: Groups of expectations.
        rules: What each command leaves.
    """

    quant_algos: dict[Algorithm, tuple[str | None, ...]]
    tellings: dict[Code, LogPattern]
    expectations: dict[str, tuple[Expectation, ...]]
    rules: tuple[Rule, ...]


class Names(Entry):
    """Names of tensors or files of one part of a model.

    Attributes:
        part: Whose number of layers counts.
        names: Patterns.
        gated: Patterns that hold where the MLP has a gate.
        linears: Patterns of the layers, without ``.weight``, that quantization packs.
        gated_linears: The same, where the MLP has a gate.
    """

    part: PartName = "llm"
    names: tuple[str, ...]
    gated: tuple[str, ...] = ()
    linears: tuple[str, ...] = ()
    gated_linears: tuple[str, ...] = ()


class Tables(Entry):
    """``tensors.yaml``.

    Attributes:
        scales: Ending of the tensor that each packed layer must have beside its weight, by quantization.
        packed: Names that a safetensors header gives to the types of packed weights.
        tables: Tables by name; one item for each part.
    """

    scales: dict[str, str]
    packed: tuple[str, ...]
    tables: dict[str, tuple[Names, ...]]


class ExpectedOutput(Entry):
    """One value of a config.json: :class:`Expectation` with its value worked out.

    Attributes:
        key: Keys from the outside in, joined by dots.
        values: What may stand there; null where the key may be missing.
        begins: Whether it is enough that the text begins so.
        code: Of the finding.
    """

    key: str
    values: tuple[Any, ...]
    begins: bool = False
    code: Code


class OutputPath(Entry):
    """One directory that a command must leave, all names filled in.

    Attributes:
        directory: Below the one that the command runs in.
        ranks: Names of the ranks' files, in their order.
        checkpoint: Directory that the command reads ranks from.
        config: Of ``config.json``.
        tensors: Table of the tensors that each rank file must hold.
        raw: Table of the raw files that must be there.
    """

    directory: str
    ranks: tuple[str, ...] = ()
    checkpoint: str | None = None
    config: tuple[ExpectedOutput, ...] = ()
    tensors: str | None = None
    raw: str | None = None


class OutputPart(Entry):
    """What the names of tensors depend on in one part of a model."""

    num_hidden_layers: int
    mlp_type: str


class Expected(Entry):
    """Everything that one command must leave: plain data, worked out before it runs.

    Attributes:
        products: Files and directories, below the directory that the command runs in.
        places: Directories and what is in them.
        parts: The model's parts.
        ranks: How many there are.
    """

    products: tuple[str, ...]
    places: tuple[OutputPath, ...]
    parts: dict[PartName, OutputPart]
    ranks: int


def table(name: str) -> Any:
    """Content of a YAML file of this package."""
    text = (files("mmbuild.backends.tensorrt_llm.output_checks") / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def rules() -> Rules:
    """What each command must leave."""
    return Rules.model_validate(table("rules.yaml"))


@cache
def tables() -> Tables:
    """Names of tensors."""
    return Tables.model_validate(table("tensors.yaml"))
