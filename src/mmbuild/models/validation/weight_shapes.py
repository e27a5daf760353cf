"""Checks config.json against the shapes in the headers of safetensors files, without reading tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbuild.models.checkpoint.config import components
from mmbuild.models.checkpoint.convert import find_sources, naming_of, require_shape, stored_twice
from mmbuild.models.checkpoint.hf_weights import StoredTensor, require_floats
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.checkpoint.tensor_table import full_name, tensors
from mmbuild.models.checkpoint.tied_embedding import with_embedding
from mmbuild.models.errors import CheckpointError, ModelFilesError
from mmbuild.models.families.facts import ModelFacts
from mmbuild.models.files.weight_files import Header

_ONE_VERSION = "take config.json and weights from the same version of the model"


def stored_tensors(headers: Mapping[str, Header]) -> dict[str, StoredTensor]:
    """Every tensor of safetensors files by name; those of a directory below the model's own as ``directory/name``.

    Args:
        headers: Header of each file, by its path below the model's directory.

    Raises:
        ModelFilesError: MM403, a header gives a tensor no shape.
    """
    found: dict[str, StoredTensor] = {}
    for file, header in headers.items():
        below = Path(file).parent.name
        for name, entry in header.items():
            shape = entry.get("shape")
            if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
                raise ModelFilesError(
                    f"the header of `{file}` gives `{name}` no shape",
                    code="MM403",
                    hint="download the file again",
                )
            found[f"{below}/{name}" if below else name] = StoredTensor(
                file, tuple(shape), _unread, str(entry.get("dtype"))
            )
    return found


def _unread(cut: TensorSlice) -> object:
    raise AssertionError(f"only headers are read: {cut}")


def require_shapes(
    family: str,
    facts: ModelFacts,
    stored: Mapping[str, StoredTensor],
    keys: tuple[str, str],
    *,
    whole: bool,
) -> None:
    """Check the language model's tensors against config.json.

    Args:
        family: Family that defines the weights' names.
        facts: Facts from config.json.
        stored: :func:`stored_tensors`.
        keys: What config.json calls the rows and the columns of the embedding: ``text_config.vocab_size`` and
            ``text_config.hidden_size``.
        whole: Whether ``stored`` holds all tensors of the model; otherwise a missing tensor is no finding.

    Raises:
        ModelFilesError: MM738, the embedding has another number of rows or columns.
        CheckpointError: MM430 a tensor is missing, MM431 has another shape, MM434 has no place in the model.
    """
    stacks = components(facts.llm, facts.encoder)
    specs = {where: {spec.name: spec for spec in tensors(stack)} for where, stack in stacks.items()}
    tied = any(stack.tie_word_embeddings for stack in stacks.values())
    stored = with_embedding(stored, family, _embedding_source(facts), tied=tied)
    name = embedding_name(family, facts, stored)
    if name is not None:
        _require_embedding(name, stored[name], (facts.llm.vocab_size, facts.llm.hidden_size), keys)
    if whole:
        find_sources(family, specs, stored, tied=tied)


@dataclass(frozen=True, slots=True)
class VisualSide:
    """The weights of tower and projector.

    Attributes:
        canonical: Common name of a source's tensor; None if it is not of the visual side.
        shapes: Shapes that config.json implies, by common name.
    """

    canonical: Callable[[str, str], str | None]
    shapes: Mapping[str, tuple[int, ...]]


def visual_fault(
    visual: VisualSide, stored: Mapping[str, Mapping[str, StoredTensor]], *, whole: bool
) -> tuple[str, CheckpointError] | None:
    """What is wrong with the weights of the visual side, as the step that converts them reads them.

    Args:
        visual: What config.json implies.
        stored: :func:`stored_tensors` of each source, in the order in which they are read.
        whole: Whether ``stored`` holds all tensors; otherwise a missing tensor is no fault.

    Returns:
        The source to blame, and MM430 a tensor is missing, MM431 has another shape, MM434 is stored twice, or MM749
        holds integers; None if nothing is wrong.
    """
    required = dict(visual.shapes)
    for source, tensors_of_source in stored.items():
        names: dict[str, str] = {}
        for name, tensor in tensors_of_source.items():
            known = visual.canonical(source, name)
            if known not in required:
                continue
            if names.setdefault(known, name) != name:
                return source, stored_twice(name, names[known])
            try:
                require_floats(name, tensor)
                require_shape(name, tensor, required[known])
            except CheckpointError as error:
                return source, error
        for known in names:
            del required[known]
    if required and whole:
        return list(stored)[-1], _missing(sorted(required), stored)
    return None


def _missing(names: Sequence[str], stored: Mapping[str, Mapping[str, StoredTensor]]) -> CheckpointError:
    files = sorted(
        {tensor.file for tensors_of_source in stored.values() for tensor in tensors_of_source.values()}
    )
    which = "is" if len(names) == 1 else f"and {len(names) - 1} more of tower and projector are"
    return CheckpointError(
        f"tensor `{names[0]}` {which} missing from {', '.join(files[:3])}{' ...' if len(files) > 3 else ''}",
        code="MM430",
        hint="check that config.json belongs to these weights and that no shard is missing",
    )


def embedding_name(family: str, facts: ModelFacts, stored: Mapping[str, StoredTensor]) -> str | None:
    """Full name of the language model's embedding; None where no naming of the family finds it."""
    source = _embedding_source(facts)
    try:
        return full_name(naming_of(family, stored, source), source)
    except CheckpointError:
        return None


def _embedding_source(facts: ModelFacts) -> str:
    """Name of the embedding in the table of the first stack: T5's decoder may have its own."""
    first = next(iter(components(facts.llm, facts.encoder).values()))
    return next(tensors(first)).parts[0].source


def layer_names(family: str, facts: ModelFacts, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Full names of the tensors of the language model's first layer, of which ``stored`` holds the embedding."""
    parts = [part.source for spec in tensors(facts.llm) for part in spec.parts]
    naming = naming_of(family, stored, _embedding_source(facts))
    return [full_name(naming, source) for source in dict.fromkeys(parts) if ".0." in source]


def _require_embedding(
    name: str, stored: StoredTensor, stated: tuple[int, ...], keys: tuple[str, str]
) -> None:
    if len(stored.shape) != len(stated):
        return  # a packed tensor, which the comparison of all tensors reports
    for key, unit, ours, theirs in zip(keys, ("rows", "columns"), stated, stored.shape, strict=True):
        if ours != theirs:
            raise ModelFilesError(
                f"`{key}` in config.json is {ours}, and the embedding `{name}` in `{stored.file}` "
                f"has {theirs} {unit}",
                code="MM738",
                hint=_ONE_VERSION,
            )
