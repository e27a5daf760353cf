"""Resolves the layers of a checkpoint against the kernels of a program, after the split over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmbuild.backends.hf.consumers.load import Consumer, Kernel
from mmbuild.backends.hf.forms import Form
from mmbuild.models.families.facts import LlmFacts
from mmbuild.schema.linear_shapes import Linear, linears

_TOGETHER: Mapping[str, tuple[str, ...]] = {"mlp.gate_up": ("mlp.fc", "mlp.gate")}
"""Layers of the checkpoint tables that servers run as one; q, k and v are one in the tables too."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a kernel has to take.

    Attributes:
        form: How layers are stored.
        group_size: Inputs that share a scale; None: all of an output.
        dtype: Number format of inputs.
        sm: Compute capability of the GPU; None: any.
        ranks: Number of ranks.
    """

    form: Form
    group_size: int | None
    dtype: str
    sm: int | None
    ranks: int


def findings(program: Consumer, llm: LlmFacts, request: Request) -> Iterator[str]:
    """Why no kernel of ``program`` runs the layers of ``llm``, one message for each reason."""
    rows = program.kernels.get(request.form.format)
    if program.kernels and rows is None:
        yield f"{program.title} {program.version} does not load the format {request.form.format}"
    for layer in served(llm, request.ranks) if rows else ():
        reasons = [_objection(kernel, layer, request) for kernel in rows or ()]
        if all(reasons):
            tried = "; ".join(
                f"{kernel.name}: {why}" for kernel, why in zip(rows or (), reasons, strict=True)
            )
            yield (
                f"no kernel of {program.title} {program.version} runs {layer.name} "
                f"[{layer.outputs} outputs, {layer.inputs} inputs] on a rank: {tried}"
            )
            return  # the other layers fail for the same reasons
    size = llm.head_size
    if program.heads and not any(
        size % kernel.multiple == 0 and kernel.least <= size <= kernel.most for kernel in program.heads
    ):
        limits = "; ".join(
            f"{kernel.name}: multiples of {kernel.multiple} from {kernel.least} to {kernel.most}"
            for kernel in program.heads
        )
        yield f"no attention kernel of {program.title} {program.version} takes heads of {size}: {limits}"


def served(llm: LlmFacts, ranks: int) -> Sequence[Linear]:
    """The linear modules that servers run, on one rank."""
    own = {layer.name: layer for layer in linears(llm, ranks)}
    fused = {part: name for name, parts in _TOGETHER.items() if set(parts) <= set(own) for part in parts}
    merged: dict[str, Linear] = {}
    for name, layer in own.items():
        whole = fused.get(name, name)
        before = merged.get(whole)
        outputs = layer.outputs + (before.outputs if before else 0)
        merged[whole] = Linear(whole, outputs, layer.inputs)
    return list(merged.values())


def _objection(kernel: Kernel, layer: Linear, request: Request) -> str | None:
    """Why a kernel does not run a layer; None if it does."""
    group, sm = request.group_size, request.sm
    checks = (
        (
            sm is None or kernel.sm[0] <= sm <= kernel.sm[1],
            f"SM {kernel.sm[0]} to {kernel.sm[1]}, not {sm}",
        ),
        (request.form.bits in kernel.bits, f"{request.form.bits} bits"),
        (group in kernel.groups, f"groups of {group}"),
        (group is None or layer.inputs % group == 0, f"{layer.inputs} inputs are no whole groups of {group}"),
        (layer.inputs % kernel.inputs == 0, f"inputs in multiples of {kernel.inputs}"),
        (layer.outputs % kernel.outputs == 0, f"outputs in multiples of {kernel.outputs}"),
        (request.dtype in kernel.dtypes, f"{' or '.join(kernel.dtypes)}, not {request.dtype}"),
    )
    return next((why for fits, why in checks if not fits), None)
