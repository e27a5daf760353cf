"""Writes the model card of a checkpoint: what it was made from, how, how good it is, and how to serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbuild._version import __version__
from mmbuild.backends.base import OwnServer
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.hf.commands import SERVERS, own_server
from mmbuild.backends.hf.forms import FORMAT_VERSION, FORMS
from mmbuild.base.formatting import size_text
from mmbuild.evaluation.gates import QUANTITIES, gate_verdicts, measure_quantities, number

_LEGAL = ("LICENSE", "NOTICE")
_HUB = "hf://"
_DEVICES: Mapping[str, str] = {"cpu": "CPU", "cuda": "GPU"}


@dataclass(frozen=True, slots=True)
class Card:
    """Content of a model card.

    Attributes:
        name: Name of the build.
        source: The recipe's model source, without directories of this machine.
        revision: Its revision; None: the default one, or a directory.
        algorithm: Quantization as in recipes.
        calibration: What it was calibrated on; None without calibration.
        gates: The gates, from :func:`mmbuild.evaluation.bounds.bounds`.
        description: ``engine.json``.
        files: Name, size in bytes and BLAKE3 of each file.
        measures: Result of step ``measure``; None if nothing was measured.
    """

    name: str
    source: str
    revision: str | None
    algorithm: str
    calibration: str | None
    gates: Mapping[str, Any]
    description: Description
    files: tuple[tuple[str, int, str], ...]
    measures: Mapping[str, Any] | None


def text(card: Card) -> str:
    """The card as Markdown, with the metadata that the hub reads."""
    blocks = [_metadata(card), _head(card), _format(card), _quality(card), _serving(card), _files(card)]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _metadata(card: Card) -> list[str]:
    lines = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text"]
    if card.source.startswith(_HUB):
        lines += [f"base_model: {card.source.removeprefix(_HUB)}", "base_model_relation: quantized"]
    if any(name.startswith("LICENSE") for name, _, _ in card.files):
        lines += ["license: other", "license_link: LICENSE"]
    return [*lines, "---"]


def _head(card: Card) -> list[str]:
    where = f"`{card.source}`" + (f" at `{card.revision}`" if card.revision else "")
    dtype = card.description.llm["dtype"]
    how = f"in {dtype}" if card.algorithm == "none" else f"quantized with `{card.algorithm}`"
    legal = [name for name, _, _ in card.files if name.startswith(_LEGAL)]
    terms = (
        f"The terms of the original model apply: {', '.join(legal)}."
        if legal
        else "The model came without a license file; the terms of the original model apply."
    )
    return [f"# {card.name}", "", f"{where} {how} by mmbuild {__version__}. {terms}"]


def _format(card: Card) -> list[str]:
    llm, form = card.description.llm, FORMS.get(card.algorithm)
    if form is None:
        return ["## Format", "", f"All weights are {llm['dtype']}."]
    lines = [
        f"The linear layers of the language model are in compressed-tensors' format `{form.format}` "
        f"(compressed-tensors {FORMAT_VERSION} or later); everything else, the visual tower and the head "
        f"included, is {llm['dtype']}.",
    ]
    if form.scaling != "none":
        lines.append(
            "Scales of inputs are folded into the preceding norms and layers, so that servers need nothing else; "
            "layers before which they cannot be folded have none."
        )
    if card.calibration is not None:
        lines.append(f"Calibrated on {card.calibration}.")
    return ["## Format", "", " ".join(lines)]


def _quality(card: Card) -> list[str]:
    if card.measures is None:
        return ["## Quality", "", "Nothing was measured: the recipe has no `verify` section."]
    measures, quality = card.measures, measure_quantities(card.measures["questions"])
    program, summary = measures["reference"], measures["summary"]
    verdicts = {verdict["gate"]: verdict for verdict in gate_verdicts(quality, card.gates)}
    rows = [
        f"| {QUANTITIES[name].title} | {number(item['value'])}{QUANTITIES[name].unit} | "
        f"{_gate(verdicts.get(name), name)} |"
        for name, item in quality.items()
    ]
    return [
        "## Quality",
        "",
        f"{program['program'].capitalize()} {program['version']} ran this directory and the original model in "
        f"{program['dtype']} on a {_DEVICES[program['device']]}: {summary['questions']} questions about pictures, "
        f"{summary['tokens']} tokens of answers, {summary['equal_tokens']} equal before the first difference.",
        "",
        "| quantity | value | gate |",
        "|---|---|---|",
        *rows,
    ]


def _gate(verdict: Mapping[str, Any] | None, name: str) -> str:
    if verdict is None:
        return "-"
    limit = "at least" if QUANTITIES[name].least else "at most"
    return f"{limit} {number(verdict['bound'])}: {'passed' if verdict['passed'] else 'failed'}"


def _serving(card: Card) -> list[str]:
    form, numbers = FORMS.get(card.algorithm), card.description.llm["serving"]
    servers = [own_server(name, numbers, ".", form) for name in SERVERS]
    return [
        "## Use",
        "",
        "In this directory; mmbuild wrote these commands for vLLM 0.26 and SGLang 0.5, and did not run them:",
        "",
        "```",
        *(line for server in servers for line in _commented(server)),
        "```",
    ]


def _commented(server: OwnServer) -> Iterator[str]:
    if server.remark:
        yield f"# {server.remark}"
    yield server.command


def _files(card: Card) -> Iterator[str]:
    yield from ("## Files", "", "| file | size | BLAKE3 |", "|---|---|---|")
    for name, size, digest in card.files:
        yield f"| {name} | {size_text(size)} | `{digest}` |"
