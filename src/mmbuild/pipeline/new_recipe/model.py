"""The model that somebody names on the command line: its source, family and facts."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError
from mmbuild.base.near_paths import path_hint
from mmbuild.base.pins import NO_PINS
from mmbuild.base.terminal_text import one_line
from mmbuild.models.errors import SourceError
from mmbuild.models.families import family
from mmbuild.models.families.facts import FamilyError, ModelFacts
from mmbuild.models.families.recognize import REPOSITORY, builder, is_original_layout, types_of
from mmbuild.models.families.sanity_checks import require_sound
from mmbuild.models.families.unsupported import require_supported
from mmbuild.models.sources.config import ConfigError, parse_source, read_config
from mmbuild.models.sources.model_addresses import repository_of

# Control characters and line breaks, which end a comment of YAML or are not allowed in it.
_BREAKS = ("Cc", "Zl", "Zp")
_SCHEMES = ("hf://", "dummy://")
_PATH = re.compile(r"(/|~|\.{1,2}(/|$))")


@dataclass(frozen=True, slots=True)
class Named:
    """A source as a recipe writes it.

    Attributes:
        source: ``hf://owner/name``, ``dummy://owner/name``, or a directory.
        revision: Branch, tag or commit of a hub source, if it is known.
    """

    source: str
    revision: str | None = None

    @property
    def short_name(self) -> str:
        """The last part of its address."""
        path = Path(self.source.partition("://")[2] or self.source).expanduser()
        return Path(os.path.normpath(path.absolute())).name


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model that a family builds.

    Attributes:
        main: Its source.
        vision: Its second source, if the family needs one for it.
        facts: From its config.
        config: Its ``config.json``.
    """

    main: Named
    vision: Named | None
    facts: ModelFacts
    config: Mapping[str, Any]


def named(argument: str, revision: str | None = None) -> Named:
    """The source that an argument means.

    Args:
        argument: A recipe's source, ``owner/name``, the address of a page of the hub, or a directory, relative to the
            current one.
        revision: Of a hub source.
    """
    if argument.startswith(_SCHEMES):
        return Named(argument, revision)
    if Path(argument).expanduser().exists() or _PATH.match(argument):
        return Named(argument)
    address = repository_of(argument)
    if address is not None:
        return Named(f"hf://{address[0]}", revision or address[1])
    if REPOSITORY.fullmatch(argument):
        return Named(f"hf://{argument}", revision)
    return Named(argument)


def choose(main: Named, *, offline: bool) -> ChosenModel:
    """Find the family that builds a model, and its facts; hub sources get the commit that they have now.

    Args:
        main: The model. Directories are relative to the current one.
        offline: Do not contact the hub.

    Raises:
        ConfigError: There is no such config.
        FamilyError: No family builds the model; says why, and which one to use instead.
        SourceError: The hub has no such revision.
    """
    here = Path.cwd()
    _require_place(main.source)
    config = read_config(_expanded(main.source), main.revision, here, offline=offline).config
    name = builder(config)
    if name is None:
        raise _reason(config)
    vision = _second_source(config, main)
    seen = None if vision is None else read_config(vision.source, None, here, offline=offline).config
    facts = family(name).facts(config, seen)
    require_sound(facts)
    pinned = _pinned(main, offline=offline)
    return ChosenModel(pinned, vision and _pinned(vision, offline=offline), facts, config)


def _reason(config: Mapping[str, Any]) -> FamilyError:
    """Why no family builds a model. Families agree on that, so the one with its ``model_type`` is asked."""
    names = [
        name
        for name in ("llava", "vila", "blip2-opt", "nougat")
        if config.get("model_type") in types_of(name)
    ]
    try:
        require_supported(config, names[0] if names else "llava")
        family(names[0] if names else "llava").facts(config, None)
    except FamilyError as error:
        return error
    return FamilyError("no family builds this model", code="MM410", hint="see the families in docs/families")


def _second_source(config: Mapping[str, Any], main: Named) -> Named | None:
    """The source of the visual tower, if the config only names it.

    Raises:
        FamilyError: MM414, the model is a text model.
    """
    if config.get("model_type") in ("opt", "t5"):
        raise FamilyError(
            f"`{main.source}` is a text model, which sees nothing by itself",
            code="MM414",
            hint="name the BLIP-2 model that contains it, such as Salesforce/blip2-opt-2.7b",
        )
    tower = config.get("mm_vision_tower")
    if is_original_layout(config) and isinstance(tower, str) and REPOSITORY.fullmatch(tower):
        return Named(f"hf://{tower}")
    return None


def _pinned(one: Named, *, offline: bool) -> Named:
    ref = parse_source(one.source)
    if ref.kind != "hub":
        return one
    from mmbuild.models.sources import hub

    try:
        return Named(one.source, hub.resolve_revision(ref.value, one.revision, offline=offline))
    except SourceError as error:
        # Without a network the recipe stays open, and says so.
        if error.code != "MM422":
            raise
        return one


def require_files(chosen: ChosenModel) -> None:
    """Check the files of a local model as `mmbuild validate` does, for a recipe in the current directory.

    Raises:
        MmbuildError: The first fault.
    """
    from mmbuild.schema.model import Model
    from mmbuild.schema.model_file_rules import check_files, missing_files

    vision = None if chosen.vision is None else {"source": _expanded(chosen.vision.source)}
    written = {"family": chosen.facts.family, "source": _expanded(chosen.main.source), "vision": vision}
    model = Model.model_validate(written, strict=False)
    found = check_files(model, Path.cwd(), chosen.facts, {"model": chosen.config}, (), NO_PINS)
    faults = [*found.faults, *missing_files(model, Path.cwd(), chosen.facts)]
    fault = next((one for one in faults if one.severity == "error"), None)
    if fault is not None:
        raise MmbuildError(fault.message, code=fault.code, hint=fault.hint)


def _require_place(source: str) -> None:
    """Refuse a directory that does not exist; nothing but the command line names it.

    Raises:
        ConfigError: MM130.
    """
    place = _expanded(source)
    if parse_source(place).kind != "directory" or os.path.lexists(place):
        return
    raise ConfigError(
        f"model directory `{source}` does not exist",
        code="MM130",
        hint=path_hint(
            Path(place),
            "check the path, which is relative to the current directory; a model on the hub is `owner/name`",
        ),
    )


def _expanded(source: str) -> str:
    return source if "://" in source else str(Path(source).expanduser())


def relative_source(one: Named, directory: Path) -> Named:
    """``one`` for a recipe in ``directory``: a directory's path is relative to the recipe.

    Raises:
        MmbuildError: MM131, a recipe cannot contain the path.
    """
    scheme, mark, rest = one.source.partition("://")
    if mark and (scheme != "dummy" or not _PATH.match(rest)):
        return one
    path = rest if mark else one.source
    if path.startswith("~"):
        return one
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise MmbuildError("the path of the model is not valid Unicode", code="MM131") from None
    relative = os.path.relpath(path, directory)
    if any(unicodedata.category(sign) in _BREAKS for sign in relative + one.short_name):
        raise MmbuildError(
            f"the path of the model contains a control character: `{one_line(str(Path(path).absolute()))}`",
            code="MM131",
            hint="rename the directory",
        )
    if mark and not _PATH.match(relative):
        relative = f"./{relative}"
    return Named(f"dummy://{relative}" if mark else relative)
