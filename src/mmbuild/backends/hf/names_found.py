"""Resolves the names in ``quantization_config`` against the modules of a program, fused ones included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmbuild.backends.hf.consumers.load import Consumer, Modules
from mmbuild.backends.hf.names import matches

_LAYER = "0"
"""Layers have equal modules, and patterns match any number, so one layer stands for all."""


@dataclass(frozen=True, slots=True)
class Module:
    """A linear module of a program.

    Attributes:
        name: Its whole name.
        parts: Whole names of the modules of a checkpoint that it runs as one; empty if it is not fused.
        quantized: Whether it must be quantized.
    """

    name: str
    parts: tuple[str, ...]
    quantized: bool


@dataclass(frozen=True, slots=True)
class NameFinding:
    """A name that does not do what it is meant to.

    Attributes:
        consumer: The program, with its version.
        message: What is wrong.
        entry: The entry of ``targets`` or ``ignore`` that it is about; None if one is missing.
    """

    consumer: str
    message: str
    entry: str | None = None


def modules(table: Modules, linears: Sequence[str]) -> Iterator[Module]:
    """The modules of one layer and all others.

    Args:
        table: Names of a family's modules.
        linears: Names of the quantized linear layers below a decoder layer.
    """
    below = table.decoder.format(i=_LAYER)
    fused = {part: name for name, parts in table.fused.items() for part in parts}
    for name in dict.fromkeys(fused.get(linear, linear) for linear in linears):
        parts = tuple(f"{below}.{part}" for part in table.fused.get(name, ()))
        yield Module(f"{below}.{name}", parts, quantized=True)
    for name in table.others:
        yield Module(name.format(i=_LAYER), (), quantized=False)


def findings(
    program: Consumer, family: str, linears: Sequence[str], config: Mapping[str, object]
) -> Iterator[NameFinding]:
    """What is wrong with the names of a checkpoint's config, for one program that supports its family.

    Args:
        program: The program.
        family: The model's family.
        linears: Names of the quantized linear layers below a decoder layer.
        config: Section ``quantization_config``.
    """
    targets, ignore = entries(config)
    found = list(modules(program.families[family], linears))
    where = f"{program.title} {program.version}"
    for module in found:
        message = _problem(module, program, program.families[family], targets, ignore)
        if message is not None:
            yield NameFinding(where, message)
    names = [name for module in found for name in (module.name, *module.parts)]
    for entry in (*targets, *ignore):
        if not any(matches(name, [entry]) for name in names):
            yield NameFinding(where, f"`{entry}` matches no module of {where}", entry)


def entries(config: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Targets of all groups, and ignored names; empty where the section has another form."""
    groups, ignore = config.get("config_groups"), config.get("ignore")
    listed = [group.get("targets") for group in groups.values()] if isinstance(groups, Mapping) else []
    targets = [entry for part in listed if isinstance(part, list) for entry in part]
    return targets, list(ignore) if isinstance(ignore, list) else []


def _problem(
    module: Module, program: Consumer, table: Modules, targets: Sequence[str], ignore: Sequence[str]
) -> str | None:
    where = f"{program.title} {program.version}"
    parts = module.parts if table.known_parts else ()
    ignored = [matches(name, ignore) is not None for name in parts or (module.name,)]
    if any(ignored) and not all(ignored):
        return f"`ignore` names only a part of `{module.name}`, which {where} runs as one module"
    targeted = matches(module.name, targets) is not None or (
        bool(parts) and all(matches(name, targets) for name in parts)
    )
    if module.quantized:
        if any(ignored):
            entry = next(found for name in parts or (module.name,) if (found := matches(name, ignore)))
            return f"`{module.name}` of {where} is quantized, but `ignore` names it as `{entry}`"
        if not targeted:
            return f"`{module.name}` of {where} is quantized, but no target names it"
    elif not any(ignored):
        if targeted:
            return f"`{module.name}` of {where} is not quantized, but a target names it and `ignore` does not"
        if program.unmatched == "refused":
            return f"`{module.name}` is neither a target nor ignored, which {where} refuses"
    return None
