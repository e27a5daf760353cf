"""Schema of ``outputs.yaml`` of a version, and of ``tensors.yaml`` and ``explanations.yaml``.

Strings marked *template* are Jinja2 templates, those marked *expression* Jinja2 expressions. Both may use the names
in :mod:`mmbuild.backends.tensorrt_llm.toolchains.template_context`, ``rank`` (in names of rank files), ``part``
(facts of the encoder or the decoder), ``version`` and the rule's own ``names``. Strings marked *pattern* contain
``{layer}`` and ``{rank}``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from mmbuild.backends.tensorrt_llm.toolchains.load import read_yaml, version_facts
from mmbuild.backends.tensorrt_llm.toolchains.model import Part, entries
from mmbuild.schema.model import Algorithm, Family

Code = Literal["MM653", "MM654", "MM655", "MM656", "MM657", "MM658", "MM662"]
PartName = Literal["encoder", "llm"]

_DIRECTORY = Path(__file__).parent


class Expectation(Part):
    """One value of a config.json.

    Attributes:
        key: Dotted key.
        value: Expected value; a list allows any of its items. A missing key counts as null. Expression.
        begins: Whether a version that begins with the value also matches.
        code: Code of the finding.
    """

    key: str
    value: str
    begins: bool = False
    code: Code


class Rule(Part):
    """The output of some commands in one directory.

    Attributes:
        commands: Names of commands.
        families: Families to which the rule applies.
        part: The model part whose facts ``part`` refers to.
        directory: Relative to the command's working directory; template.
        ranks: Name of a rank's file; template over ``rank``. Other files with its suffix are left over from an
            earlier build.
        checkpoint: Directory whose rank files the command reads; template.
        config: Groups of expectations of ``config.json``, and the key that contains the keys of each (empty for the
            top level); if there are none, the file is not read.
        tensors: Table of the tensors required in each rank file.
        raw: Table of the required raw files.
        names: Additional names for expressions; expressions.
    """

    commands: tuple[str, ...]
    families: tuple[Family, ...]
    part: PartName = "llm"
    directory: str
    ranks: str | None = None
    checkpoint: str | None = None
    config: dict[str, str] = Field(default={})
    tensors: str | None = None
    raw: str | None = None
    names: dict[str, str] = Field(default={})


class Explanation(Part):
    """Why a finding matters (``why``) and what to do (``hint``). No full stops."""

    why: str
    hint: str


class Rules(Part):
    """``outputs.yaml``.

    Attributes:
        quant_algos: Allowed names of each quantization in config.json; null means unquantized.
        expectations: Expectations by group.
        rules: Expected output of each command.
    """

    quant_algos: dict[Algorithm, tuple[str | None, ...]]
    expectations: dict[str, tuple[Expectation, ...]]
    rules: Annotated[tuple[Rule, ...], BeforeValidator(entries)]


class Names(Part):
    """Names of tensors or files of one part of a model.

    Attributes:
        part: The model part that determines the number of layers.
        names: Patterns.
        gated: Patterns that apply only if the MLP has a gate.
        linears: Patterns of the layers, without ``.weight``, that quantization packs.
        gated_linears: Further such patterns if the MLP has a gate.
    """

    part: PartName = "llm"
    names: tuple[str, ...]
    gated: tuple[str, ...] = ()
    linears: tuple[str, ...] = ()
    gated_linears: tuple[str, ...] = ()


class Tables(Part):
    """``tensors.yaml``.

    Attributes:
        scales: By quantization, the suffix of the tensor that each packed layer needs in addition to its weight.
        packed: Safetensors dtypes of packed weights.
        tables: Tables by name; one item per model part.
    """

    scales: dict[str, str]
    packed: tuple[str, ...]
    tables: dict[str, tuple[Names, ...]]


class ExpectedOutput(Part):
    """One value of a config.json: :class:`Expectation` with its value computed.

    Attributes:
        key: Dotted key.
        values: Allowed values; null allows a missing key.
        begins: Whether a version that begins with a value also matches.
        code: Code of the finding.
    """

    key: str
    values: tuple[Any, ...]
    begins: bool = False
    code: Code


class OutputPath(Part):
    """One output directory of a command, all names filled in.

    Attributes:
        directory: Relative to the command's working directory.
        ranks: Names of the rank files, in rank order.
        checkpoint: Directory that the command reads ranks from.
        config: Expected values in ``config.json``.
        tensors: Table of the tensors required in each rank file.
        raw: Table of the required raw files.
    """

    directory: str
    ranks: tuple[str, ...] = ()
    checkpoint: str | None = None
    config: tuple[ExpectedOutput, ...] = ()
    tensors: str | None = None
    raw: str | None = None


class OutputPart(Part):
    """Facts of one model part that tensor names depend on."""

    num_hidden_layers: int
    mlp_type: str


class Expected(Part):
    """The complete expected output of one command: plain data, computed before it runs.

    Attributes:
        products: Files and directories, relative to the command's working directory.
        places: Output directories and their content.
        parts: The model's parts.
        ranks: Number of ranks.
    """

    products: tuple[str, ...]
    places: tuple[OutputPath, ...]
    parts: dict[PartName, OutputPart]
    ranks: int


@cache
def rules(version: str) -> Rules:
    """The content of ``outputs.yaml`` of ``version``."""
    return Rules.model_validate(version_facts(version, "outputs"))


@cache
def explanations() -> dict[Code, Explanation]:
    """The content of ``explanations.yaml``."""
    return TypeAdapter(dict[Code, Explanation]).validate_python(read_yaml(_DIRECTORY / "explanations.yaml"))


@cache
def tables() -> Tables:
    """The content of ``tensors.yaml``."""
    return Tables.model_validate(read_yaml(_DIRECTORY / "tensors.yaml"))
