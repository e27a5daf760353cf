"""Reads the generation settings of a model, ``generation_config.json``, like transformers 5.10 to 5.17.

A table defines the handling of each field (:mod:`mmbuild.models.files.generation_fields`). Without the file, the
fields come from ``config.json`` (``GenerationConfig.from_model_config``). Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmbuild.base.errors import MmbuildError
from mmbuild.models.files.generation_fields import FORMS, dropped_by_config_classes, fields
from mmbuild.models.files.small_files import SmallFileError, display, read_json

FILE = "generation_config.json"
CONFIG = "config.json"
Load = Callable[[str], Mapping[str, Any] | None]
"""Loads a JSON object by its path in the model's directory; None if there is no such file."""

_SECTIONS = ("decoder", "generator", "text_config")
START = "decoder_start_token_id"
"""The field for the start token of an encoder-decoder's answers, whichever field stated it."""
_STARTS = (START, "bos_token_id")


class SettingsError(MmbuildError):
    """Generation settings cannot be read, or transformers cannot generate with them."""


@dataclass(frozen=True, slots=True)
class SettingsPlace:
    """Location of the settings that transformers uses for a model's decoder.

    Attributes:
        file: Path of the generation config in the model's directory; None: no file is read.
        config: The ``config.json`` to use if there is no such file.
        section: Section of the model's ``config.json`` to use if ``config`` is missing.
        class_defaults: If no file is read: defaults added by the section's config class. None: use the JSON only.
    """

    file: str | None = FILE
    config: str = CONFIG
    section: str | None = None
    class_defaults: Mapping[str, Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of all relevant files in the model's directory."""
        return tuple(dict.fromkeys(name for name in (self.file, FILE, self.config, CONFIG) if name))


@dataclass(frozen=True, slots=True)
class Reader:
    """Properties of the decoder that uses the settings.

    Attributes:
        vocab_size: Number of logits; None: unknown, so ids are not limited.
        encoder_decoder: Whether answers begin with a start token.
        beams: Whether beam search is possible.
        obey: False: use only end tokens and the start token.
    """

    vocab_size: int | None = None
    encoder_decoder: bool = False
    beams: bool = False
    obey: bool = True


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of one model, as plain JSON values.

    Attributes:
        eos_token_ids: Ids that end an answer.
        fields: Fields that the engine applies and that have an effect, by name; ``decoder_start_token_id`` may come
            from ``bos_token_id``.
        not_applied: Fields that have an effect in transformers, but that the engine does not apply.
    """

    eos_token_ids: tuple[int, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    not_applied: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SettingsFinding:
    """A diagnostic about settings.

    Attributes:
        code: ``MM720`` to ``MM725``.
        message: One sentence without a full stop; names file, field and value.
        hint: What to do.
        severity: ``error`` or ``warning``.
    """

    code: str
    message: str
    hint: str
    severity: Literal["error", "warning"] = "warning"


@dataclass(frozen=True, slots=True)
class SettingsReading:
    """Result of reading a model's settings.

    Attributes:
        settings: The settings; undefined if a finding is an error.
        findings: Errors and warnings.
        where: The file that the settings come from, for messages.
    """

    settings: GenerationSettings
    findings: tuple[SettingsFinding, ...]
    where: str

    def require(self) -> GenerationSettings:
        """Return the settings.

        Raises:
            SettingsError: MM721, transformers cannot generate with them.
        """
        for item in self.findings:
            if item.severity == "error":
                raise SettingsError(item.message, code=item.code, hint=item.hint)
        return self.settings


def read_directory(directory: Path, place: SettingsPlace, reader: Reader) -> SettingsReading:
    """Read the settings of a model directory.

    Raises:
        SettingsError: MM722, a relevant file cannot be read or is not a JSON object.
    """
    return read_settings(files_of(directory), place, reader, display(directory))


def files_of(directory: Path) -> Load:
    """A loader for the files of a model directory; raises as :func:`read_directory`."""
    return lambda name: _load(directory / name)


def settings_files(directory: Path, place: SettingsPlace) -> tuple[Path, ...]:
    """The files of a model directory that its settings depend on."""
    return tuple(path for name in place.names if (path := (directory / name).absolute()).is_file())


def read_settings(
    load: Load, place: SettingsPlace, reader: Reader = Reader(), label: str = ""
) -> SettingsReading:
    """Read the settings of a model.

    Args:
        load: Loads the files; called with ``place.names``.
        place: Location of the settings for the model's family.
        reader: Properties of the decoder.
        label: Name of the model's directory in messages; may be empty.

    Raises:
        SettingsError: As ``load`` does.
    """
    name, values = _effective(load, place)
    where = f"{label}/{name}" if label else name
    read = {key: value for key, value in values.items() if reader.obey or key in ("eos_token_id", *_STARTS)}
    findings = [*_wrong(read, where, reader)]
    if findings:
        return SettingsReading(GenerationSettings(), tuple(findings), where)
    settings = _settings(read, reader)
    findings += _contradictions(read, settings, where, reader)
    findings += _not_applied(settings, where)
    if not settings.eos_token_ids:
        findings.append(_endless(where))
    if reader.obey:
        findings += _unread(load, place, values, label)
    return SettingsReading(settings, tuple(findings), where)


def _effective(load: Load, place: SettingsPlace) -> tuple[str, Mapping[str, Any]]:
    """The effective file, and its values of the table's fields."""
    content = load(place.file) if place.file else None
    if place.file and content is not None:
        return place.file, _known({**content, **_forced_bos(content, content.get("_from_model_config"))})
    if place.class_defaults is not None:
        return CONFIG, _known(_parsed_section(load, place))
    config = load(place.config) if place.config != CONFIG or place.section is None else None
    if config is not None:
        return place.config, _from_config(config)
    outer = load(CONFIG) or {}
    return CONFIG, _from_config(_mapping(outer.get(place.section)) if place.section else outer)


def _from_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``GenerationConfig.from_model_config`` for a ``config.json``: its own fields, then those of its decoder."""
    section = next((_mapping(config[key]) for key in _SECTIONS if config.get(key)), {})
    own = {**config, **_forced_bos(config, True)}
    return {name: section.get(name) if own.get(name) is None else own[name] for name in fields()}


def _parsed_section(load: Load, place: SettingsPlace) -> Mapping[str, Any]:
    """The section after parsing by its config class in transformers."""
    section = _mapping((load(CONFIG) or {}).get(place.section or ""))
    dropped = dropped_by_config_classes()
    kept = {key: value for key, value in section.items() if key not in dropped}
    stated = {**(place.class_defaults or {}), **kept}
    return {**stated, **_forced_bos(stated, True)}


def _forced_bos(content: Mapping[str, Any], from_config: object) -> Mapping[str, Any]:
    # What old BART files say in place of forced_bos_token_id.
    forced = from_config and content.get("force_bos_token_to_be_generated")
    return {"forced_bos_token_id": content.get("bos_token_id")} if forced else {}


def _known(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: content[name] for name in fields() if content.get(name) is not None}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _wrong(values: Mapping[str, Any], where: str, reader: Reader) -> Iterator[SettingsFinding]:
    """Report values that transformers cannot generate with."""
    for name, value in values.items():
        row = fields()[name]
        kind = "unread_id" if name in _STARTS and not reader.encoder_decoder else row.form
        form = FORMS[kind] if kind else None
        vocab_size = reader.vocab_size
        if value is not None and form and not form.fits(value, vocab_size):
            size = f" of {vocab_size}" if vocab_size is not None and "vocabulary" in form.expected else ""
            yield _refused(
                where, name, value, f"expected {form.expected.replace('vocabulary', 'vocabulary' + size)}"
            )


def _refused(where: str, name: str, value: Any, reason: str) -> SettingsFinding:
    return SettingsFinding(
        "MM721",
        f"`{where}` sets `{name}` to {_text(value)}: {reason}",
        "correct the value or remove the field",
        "error",
    )


def _settings(values: Mapping[str, Any], reader: Reader) -> GenerationSettings:
    ends = values.get("eos_token_id")
    obeyed, not_applied = {}, {}
    for name, value in values.items():
        row = fields()[name]
        if name == "eos_token_id" or name in _STARTS or not row.changes(value):
            continue
        if row.effect in ("obeyed", "beams"):
            obeyed[name] = value
        elif row.effect == "reported" and (reader.beams or not row.beams_only):
            not_applied[name] = value
    start = next((values[name] for name in _STARTS if values.get(name) is not None), None)
    if reader.encoder_decoder and start is not None:
        obeyed[START] = start
    return GenerationSettings(() if ends is None else tuple(_listed(ends)), obeyed, not_applied)


def _contradictions(
    values: Mapping[str, Any], settings: GenerationSettings, where: str, reader: Reader
) -> Iterator[SettingsFinding]:
    """Report combinations that transformers rejects."""
    suppressed = set(settings.fields.get("suppress_tokens", ()))
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if name in settings.fields and set(_listed(values[name])) <= suppressed:
            yield _refused(where, name, values[name], "`suppress_tokens` contains it too")
    ends = settings.eos_token_ids
    size = reader.vocab_size
    if "exponential_decay_length_penalty" in settings.fields and not (
        ends and all(end >= 0 and (size is None or end < size) for end in ends)
    ):
        value = settings.fields["exponential_decay_length_penalty"]
        yield _refused(
            where, "exponential_decay_length_penalty", value, "it needs an end token of the vocabulary"
        )


def _not_applied(settings: GenerationSettings, where: str) -> Iterator[SettingsFinding]:
    for name, value in settings.not_applied.items():
        yield SettingsFinding("MM720", f"`{where}` sets {not_applied_text(name, value)}", _IGNORE)


_IGNORE = (
    "remove the field from the file, or silence the warning with engine.generation_config: ignore, "
    "which ignores every setting but end tokens"
)


def not_applied_text(name: str, value: Any) -> str:
    """Describe a field that the engine does not apply, with its value and the reason."""
    return f"`{name}` to {_text(value)}, which the engine does not apply: {fields()[name].why}"


def _endless(where: str) -> SettingsFinding:
    return SettingsFinding(
        "MM723",
        f"`{where}` has no `eos_token_id`: answers continue up to max_output_len, as with transformers",
        "add `eos_token_id` to the file",
    )


def _unread(
    load: Load, place: SettingsPlace, values: Mapping[str, Any], label: str
) -> Iterator[SettingsFinding]:
    """Report fields of a generation config that transformers does not read."""
    if place.file == FILE:
        return
    try:
        content = load(FILE) or {}
    except SettingsError:
        return  # irrelevant, because nothing reads it
    where = f"{label}/{FILE}" if label else FILE
    counts = f"only `{place.file}`" if place.file else f"only `{place.section}`"
    for name, value in _known(content).items():
        row = fields()[name]
        counted = row.effect != "none" and name not in _STARTS and row.changes(value)
        if counted and _listed(value) != _listed(values.get(name)):
            yield SettingsFinding(
                "MM724",
                f"`{where}` sets `{name}` to {_text(value)}, but the language model reads {counts}",
                f"write the field into `{place.file}`"
                if place.file
                else "remove the field: transformers ignores it",
            )


def not_passed(settings: GenerationSettings, *, beams: bool) -> Mapping[str, Any]:
    """Settings that TensorRT-LLM's example runner does not get: it decodes greedily, up to one end token."""
    fields_not_passed = {
        name: value
        for name, value in settings.fields.items()
        if name != START and (beams or fields()[name].effect == "obeyed")
    }
    several = len(set(settings.eos_token_ids)) > 1
    return {**({"eos_token_id": list(settings.eos_token_ids)} if several else {}), **fields_not_passed}


def runner_findings(reading: SettingsReading, *, beams: bool) -> Iterator[SettingsFinding]:
    """A warning for each setting of :func:`not_passed`."""
    for name, value in not_passed(reading.settings, beams=beams).items():
        yield SettingsFinding(
            "MM725",
            f"`{reading.where}` sets {not_passed_text(name, value)}",
            "set engine.backend to torch, which applies it",
        )


def not_passed_text(name: str, value: Any) -> str:
    """Describe a field that TensorRT-LLM's runner does not get, with its value."""
    return f"`{name}` to {_text(value)}, which TensorRT-LLM's runner does not get: answers differ from transformers'"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any, most: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _load(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        return read_json(path)
    except SmallFileError as error:
        raise SettingsError(error.message, code="MM722", hint=error.hint) from None
