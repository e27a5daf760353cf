"""Checks the files of a model directory against each other and against config.json, without reading weights.

Messages name both sides. Only small files and the headers of safetensors files are read, so validation of a recipe
takes a fraction of a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import entries
from mmbuild.models.errors import ModelFilesError
from mmbuild.models.families import family, part
from mmbuild.models.families.facts import FamilyError, ModelFacts
from mmbuild.models.files import (
    adapters,
    call_settings,
    chat_template,
    processor_class,
    processor_config,
    remote_code,
    weight_files,
)
from mmbuild.models.files.expected_files import ExpectedFiles
from mmbuild.models.files.small_files import display, read_json
from mmbuild.models.files.tokenizer_library import JSON, added_to_every_text, read_with_library
from mmbuild.models.files.vocabulary import read_tokenizer
from mmbuild.models.files.weight_files import WeightSet, require_agreement, require_one_place, weight_set
from mmbuild.models.validation.checked_model import Model, image_token_of, template_of
from mmbuild.models.validation.token_ids import (
    require_embeddings,
    require_image_token,
    require_known_ids,
    require_repeatable,
    require_stated_ids,
)
from mmbuild.models.validation.tokenizer_class import require_tokenizer_class
from mmbuild.models.validation.weight_names import require_plain


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a source.

    Attributes:
        source: ``model`` or ``vision``.
        error: The error.
    """

    source: str
    error: MmbuildError


_GENERATION = "generation_config.json"
Check = Callable[[Model, ExpectedFiles], None]


def findings(model: Model) -> list[Finding]:
    """All problems with the files of ``model``, without duplicates."""
    expected = model.expected()
    found: list[Finding] = []
    for source in model.sources:
        found += _caught(source, lambda source=source: _weights(model, expected, source))  # type: ignore[misc]
    if not found:
        found += _visual_weights(model)
    for check in _CHECKS:
        source = expected.images[0] if check in _OF_IMAGES else "model"
        found += _caught(source, lambda check=check: check(model, expected))  # type: ignore[misc]
    first = {(item.source, item.error.code, item.error.message): item for item in reversed(found)}
    return [item for item in found if first[item.source, item.error.code, item.error.message] is item]


def _caught(source: str, check: Callable[[], None]) -> list[Finding]:
    try:
        check()
    except MmbuildError as error:
        return [Finding(source, error)]
    except OSError as error:
        name = display(Path(str(error.filename)))
        failure = ModelFilesError(
            f"`{name}` cannot be read: {error.strerror}",
            code="MM401",
            hint="check the file and its permissions",
        )
        return [Finding(source, failure)]
    return []


def inspected_paths(model: Model) -> Iterator[Path]:
    """All directories and files that the result of :func:`findings` depends on."""
    for source in model.sources.values():
        inner = (*model.facts.directories, chat_template.MORE_TEMPLATES)
        for directory in (source.directory, *(source.directory / name for name in inner)):
            if directory.is_dir():
                yield directory.absolute()
                yield from (path.absolute() for path in entries(directory) if path.is_file())


# Weights.


def _weights(model: Model, expected: ExpectedFiles, source: str) -> None:
    """Check that there is one set of weights that matches its index and config.json."""
    given = model.sources[source]
    if not given.weights:
        return
    directories = model.facts.directories if source == "model" else ()
    require_one_place(given.directory, directories)
    sets = dict(_sets(given.directory, directories))
    adapters.require_merged(given.directory, has_weights=bool(sets))
    headers = {name: _headers(given.directory / name, found) for name, found in sets.items()}
    for name, found in sets.items():
        require_agreement(given.directory / name, found, headers[name])
    _require_floats(headers)
    for files in headers.values():
        require_plain(files)
    if source == "model" and sets:
        _require_shapes(model, expected, sets, headers)


def _sets(directory: Path, inner: tuple[str, ...]) -> Iterator[tuple[str, WeightSet]]:
    for name in ("", *inner):
        found = weight_set(directory / name) if (directory / name).is_dir() else None
        if found is not None:
            yield name, found


def _headers(directory: Path, found: WeightSet) -> dict[str, Mapping[str, Any]]:
    # Imported late to avoid a cycle.
    from mmbuild.models.validation.integrity import read_header

    return {name: read_header(directory / name) for name in found.files if name.endswith(".safetensors")}


def _require_floats(headers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Check that weights are floats; position ids and the like may be integers."""
    from mmbuild.models.checkpoint.hf_weights import WEIGHTS, require_floats
    from mmbuild.models.validation.weight_shapes import stored_tensors

    for files in headers.values():
        for name, tensor in stored_tensors(files).items():
            if name.endswith(WEIGHTS):
                require_floats(name, tensor)


def _require_shapes(
    model: Model,
    expected: ExpectedFiles,
    sets: Mapping[str, WeightSet],
    headers: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    # Imported late: tables of tensors take 30 ms, and many recipes name no directory.
    from mmbuild.models.validation.weight_shapes import (
        embedding_name,
        layer_names,
        require_shapes,
        stored_tensors,
    )

    files = {
        f"{name}/{file}" if name else file: header
        for name, found in headers.items()
        for file, header in found.items()
    }
    if not files:
        return
    stored = stored_tensors(files)
    whole = len(files) == sum(len(found.files) for found in sets.values())
    keys = expected.vocab_size, expected.hidden_size
    require_shapes(model.family, model.facts, stored, keys, whole=whole)
    embedding = embedding_name(model.family, model.facts, stored)
    if embedding is not None:
        below, _, own = embedding.rpartition("/")
        directory = model.sources["model"].directory / below
        other = weight_files.pickled_set(directory)
        if other is not None and headers[below]:
            names = layer_names(model.family, model.facts, stored)
            layer = [name.removeprefix(f"{below}/") for name in names]
            weight_files.require_same_model(directory, own, layer, headers[below], other.files)


def _visual_weights(model: Model) -> list[Finding]:
    """Check tower and projector, whose weights may be in either source."""
    # Imported late as above.
    from mmbuild.models.validation.weight_shapes import VisualSide, stored_tensors, visual_fault

    stored, whole = {}, len(model.sources) == len(model.configs)
    for source, given in model.sources.items():
        directories = model.facts.directories if source == "model" else ()
        files: dict[str, Mapping[str, Any]] = {}
        for name, found in _sets(given.directory, directories) if given.weights else ():
            headers = _headers(given.directory / name, found)
            whole &= len(headers) == len(found.files)
            files |= {f"{name}/{file}" if name else file: header for file, header in headers.items()}
        whole &= bool(files)
        stored[source] = stored_tensors(files)
    shape = part(model.family, "visual_shape").shape(model.configs["model"], model.configs.get("vision"))
    names = part(model.family, "visual_weights")
    fault = visual_fault(VisualSide(names.canonical, names.tensors(shape)), stored, whole=whole)
    return [] if fault is None else [Finding(*fault)]


# Small files.


def _own_code(model: Model, expected: ExpectedFiles) -> None:
    """Check that tokenizer and processor need no code from the model."""
    for directory in (model.directory("model", expected.tokenizer), model.directory(*expected.images)):
        if directory is not None:
            remote_code.require_no_code(directory)


def _vocabulary(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory("model", expected.tokenizer)
    tokenizer = read_tokenizer(directory) if directory else None
    if directory is None or tokenizer is None:
        return
    require_embeddings(tokenizer, model.facts.llm.vocab_size, expected.vocab_size)
    loaded = read_with_library(directory / JSON)
    if loaded is not None:
        ids = added_to_every_text(loaded)
        require_known_ids(ids, model.facts.llm.vocab_size, expected.vocab_size)
        require_stated_ids(tokenizer, loaded)
    stated = model.facts.image_token_id
    if expected.image_token is not None and stated is not None:
        require_image_token(
            tokenizer,
            image_token_of(model, expected),
            stated,
            expected.image_token,
            added_by_processor=expected.adds_image_token,
        )
        if loaded is not None and not expected.adds_image_token:
            require_repeatable(loaded, image_token_of(model, expected))


def _tokenizer_class(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory("model", expected.tokenizer)
    if directory is not None and read_tokenizer(directory) is not None:
        require_tokenizer_class(directory)


def _call_settings(model: Model, expected: ExpectedFiles) -> None:
    """Only transformers' processors of these families apply them."""
    directory = model.directory("model", expected.tokenizer)
    if directory is not None and (expected.placeholders is not None or expected.queries):
        call_settings.require_none(directory, model.facts.llm.max_position_embeddings)


def _processor_class(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory("model", expected.tokenizer)
    if directory is not None and expected.whole_processor:
        processor_class.require_processor_class(directory)


def _one_image_processor(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory(*expected.images)
    if directory is not None:
        processor_config.require_one_image_processor(directory, expected.image_class)


def _image_size(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory(*expected.images)
    found = processor_config.read_image_processor(directory) if directory else None
    if found is not None:
        processor_config.require_usable(found, expected.image_class)
        if expected.squaring is not None:
            processor_config.require_squaring(found, expected.image_class, expected.squaring)
        processor_config.require_image_size(
            found,
            expected.image_class,
            model.facts.visual.image_size,
            expected.image_size,
            square=expected.squaring is not None,
        )


def _placeholders(model: Model, expected: ExpectedFiles) -> None:
    directory = model.directory(*expected.images)
    if directory is None:
        return
    processor, file = processor_config.read_processor(directory), directory / processor_config.PROCESSOR
    features = model.facts.visual.num_visual_features
    if expected.placeholders is not None:
        processor_config.require_placeholders(processor, file, expected.placeholders, features)
    if expected.queries:
        processor_config.require_queries(processor, file, features)


def _template(model: Model, expected: ExpectedFiles) -> None:
    template = template_of(model, expected)
    if template is None:
        return
    directory = model.directory("model", expected.tokenizer)
    tokenizer = read_tokenizer(directory) if directory else None
    special = tokenizer.special if tokenizer else {}
    chat_template.content_form(template, special, image_token_of(model, expected))


def _generation(model: Model, expected: ExpectedFiles) -> None:
    """Check that at least one end token is in the vocabulary; otherwise answers never end."""
    directory = model.directory("model", expected.tokenizer)
    file = directory / _GENERATION if directory else None
    if file is None or not file.is_file():
        return
    stated = read_json(file).get("eos_token_id")
    size = model.facts.llm.vocab_size
    ends = [end for end in (stated if isinstance(stated, list) else [stated]) if isinstance(end, int)]
    if ends and not any(0 <= end < size for end in ends):
        raise ModelFilesError(
            f"`eos_token_id` in `{display(file)}` is {stated}, and `{expected.vocab_size}` in config.json is {size}",
            code="MM742",
            hint="take both files from the same version of the model",
        )


def _copies(model: Model, expected: ExpectedFiles) -> None:
    """Check sections of config.json against the files that they repeat."""
    config = model.configs["model"]
    for name, section in expected.copies:
        directory = model.directory("model", name)
        file = directory / "config.json" if directory else None
        if file is None or not file.is_file():
            continue
        other = {**config, section: {**config.get(section, {}), **read_json(file)}}
        try:
            facts = family(model.family).facts(other, model.configs.get("vision"))
        except (FamilyError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            reason = error.message if isinstance(error, FamilyError) else str(error)
            raise _two_configs(file, section, reason) from error
        for key, theirs, ours in differences(_plain(facts), _plain(model.facts)):
            raise _two_configs(file, section, f"{key} is {theirs} in the former and {ours} in the latter")


def _two_configs(file: Path, section: str, reason: str) -> ModelFilesError:
    return ModelFilesError(
        f"`{display(file)}` and `{section}` in the outer config.json describe different models: {reason}",
        code="MM741",
        hint="download the complete model again",
    )


def _plain(facts: ModelFacts) -> Any:
    return json.loads(json.dumps(asdict(facts)))


def differences(found: Any, planned: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Differences between two trees of plain data: dotted name, and both values."""
    if isinstance(found, dict) and isinstance(planned, Mapping):
        for key in sorted(found.keys() | planned.keys()):
            yield from differences(found.get(key), planned.get(key), f"{name}.{key}".lstrip("."))
    elif found != planned:
        yield name, found, planned


_CHECKS: tuple[Check, ...] = (
    _own_code,
    _vocabulary,
    _tokenizer_class,
    _call_settings,
    _processor_class,
    _one_image_processor,
    _image_size,
    _placeholders,
    _template,
    _generation,
    _copies,
)
_OF_IMAGES: tuple[Check, ...] = (_one_image_processor, _image_size, _placeholders)
