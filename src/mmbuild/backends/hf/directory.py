"""Checks a directory: what its config says of modules, against the tensors that are there.

A server that finds a module's name in ``ignore`` reads packed words as if they were weights, and answers nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmbuild.backends.hf import names_found
from mmbuild.backends.hf.consumers.load import NAMES, consumer
from mmbuild.backends.hf.sites import linear_names
from mmbuild.base.files import read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.models.checkpoint.convert import naming_of
from mmbuild.models.checkpoint.hf_weights import open_weights
from mmbuild.models.errors import CheckpointError
from mmbuild.models.families import family as find_family

_SECTION = "quantization_config"
_SCALE = ".weight_scale"
_SHOWN = 3


def require_consistent(directory: Path, family: str) -> None:
    """Check that exactly the modules with scales are quantized according to ``config.json``, under the names of every
    program that loads the family.

    Args:
        directory: A directory that this backend wrote.
        family: The model's family.

    Raises:
        CheckpointError: MM885, listing the modules; or its weights cannot be read.
    """
    config = read_object(directory / "config.json", MODEL_JSON)
    problems = list(_problems(directory, family, config))
    if problems:
        more = f", and {len(problems) - _SHOWN} more findings" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"`{directory / 'config.json'}` does not fit the weights: {'; '.join(problems[:_SHOWN])}{more}",
            code="MM885",
            hint="apply its recipe again; do not edit `quantization_config`",
        )


def _problems(directory: Path, family: str, config: Mapping[str, Any]) -> Iterator[str]:
    facts = find_family(family).facts({key: value for key, value in config.items() if key != _SECTION})
    linears = linear_names(facts.llm)
    with open_weights(directory) as stored:
        prefix = naming_of(family, stored, "embed_tokens.weight").prefix
        scaled = {name.removesuffix(_SCALE) for name in stored if name.endswith(_SCALE)}
    layers = [f"{prefix}layers.{number}." for number in range(facts.llm.num_hidden_layers)]
    expected = {layer + linear for layer in layers for linear in linears}
    section = config.get(_SECTION)
    if not isinstance(section, Mapping):
        if scaled:
            yield f"there is no `{_SECTION}`, but {len(scaled)} modules have scales, such as `{min(scaled)}`"
        return
    if scaled != expected:
        odd = min(scaled ^ expected)
        yield f"`{odd}` {'has scales' if odd in scaled else 'has no scales'}, unlike the other modules"
    for name in NAMES:
        program = consumer(name)
        if family in program.families:
            yield from (
                finding.message for finding in names_found.findings(program, family, linears, section)
            )
