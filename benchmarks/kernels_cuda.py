"""The kernels of packages for CUDA: held against float64 at random shapes, then timed at those of a 7B LLaMA.

    python -m benchmarks.kernels_cuda [--checks 150] [--only checks]

Checks: random sizes, odd ones too, 1 to 70 rows, all formats and dtypes, GPU memory full of NaN beforehand, results
twice the same. An error is the largest difference over the largest result. Times: microseconds a product, weights not
in the L2 cache (copies of 400 MB in all, one after the other in a CUDA graph), beside cuBLAS in float16 in the same
run, and beside vLLM's `marlin_gemm` and `machete_mm` (int4, groups of 128) where vLLM can be imported.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels_vllm import copies, vllm_products
from mmbuild.backends.torch import linear
from mmbuild.backends.torch.calibrated_linear import group_words
from mmbuild.backends.torch.kernels.attention import decode_attention
from mmbuild.backends.torch.kernels.products import grouped_product, packed_product, stored_product
from mmbuild.backends.torch.kernels.widen import widen
from mmbuild.backends.torch.positions import rotate

# Of results in the dtype: sums are float32, inputs of products have 11 or 8 bits.
BOUND = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FORMATS = ("float", "W8A16", "W4A16", "groups", "int8", "float8")
SHAPES = {"qkv": (12288, 4096), "dense": (4096, 4096), "fc": (11008, 4096), "proj": (4096, 11008)}
ROWS = (1, 2, 8, 16, 32)
BITS = {"float": 16, "W8A16": 8, "W4A16": 4, "groups": 4, "int8": 8, "float8": 8}
_POISON = 1 << 28


def poison() -> None:
    """Fill memory that the next allocations get with NaN."""
    for size in (_POISON, 1 << 20, 1 << 16, 1 << 12, 256):
        blocks = [torch.full((size,), float("nan"), device="cuda") for _ in range(2)]
        del blocks


def apart(rows: Tensor) -> Tensor:
    """The same rows [B, n] as a part of something larger, with NaN or the like between them."""
    wider = torch.empty(rows.shape[0], rows.shape[1] + 24, dtype=rows.dtype, device=rows.device)
    wider.fill_(float("nan") if rows.is_floating_point() else 99)
    part = wider[:, 8 : 8 + rows.shape[1]]
    return part.copy_(rows)


class Case:
    """Weights of a format with rows to multiply: what the kernel gives, and what it should."""

    def __init__(
        self, kind: str, rows: int, inputs: int, outputs: int, dtype: torch.dtype, group: int
    ) -> None:
        self.kind, self.rows, self.group = kind, rows, group
        x = torch.randn(rows, inputs, device="cuda")
        self.x = x.to(dtype)
        low, high = (-8, 8) if BITS[kind] == 4 else (-127, 128)
        values = torch.randint(low, high, (outputs, inputs), dtype=torch.int8, device="cuda")
        if kind in ("W8A16", "W4A16"):
            self.weight, self.wide = linear.pack_rows(values.t(), kind), values.double()
        elif kind == "groups":
            self.scale = torch.rand(outputs, inputs // group, device="cuda").to(dtype)
            self.weight = group_words((values[0::2] & 15) | (values[1::2] << 4), inputs // group)
            self.wide = values.double() * self.scale.double().repeat_interleave(group, 1)
        elif kind == "int8":
            self.x = (30 * x).clamp(-127, 127).round().to(torch.int8)
            self.weight, self.wide = values, values.double()
        elif kind == "float8":
            self.x = x.to(torch.float8_e4m3fn).half()
            self.weight = torch.randn(outputs, inputs, device="cuda").to(torch.float8_e4m3fn)
            self.wide = self.weight.double()
        else:
            self.weight = torch.randn(outputs, inputs, device="cuda").to(dtype)
            self.wide = self.weight.double()

        self.x = apart(self.x)

    def parts(self, weight: Tensor, most_rows: int) -> Tensor:
        """What the kernel gives."""
        if self.kind in ("W8A16", "W4A16"):
            return packed_product([self.x], [weight], self.kind, most_rows)[:, :, 0]
        if self.kind == "groups":
            return grouped_product([self.x], [weight], [self.scale], most_rows)[:, :, 0]
        return stored_product([self.x], [weight], most_rows)[:, :, 0]

    def error(self, most_rows: int) -> float:
        """The largest error over the largest result; infinity if two runs differ."""
        poison()
        parts = self.parts(self.weight, most_rows)
        poison()
        if not torch.equal(parts, self.parts(self.weight, most_rows)):
            return float("inf")
        return relative(parts.double().sum(0), self.x.double() @ self.wide.t())


def relative(got: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest result; NaN counts as infinity."""
    return float(((got - wanted).abs().max() / wanted.abs().max()).nan_to_num(nan=float("inf")))


def check_product(kind: str) -> tuple[str, float, float]:
    """One random product: what, error, bound."""
    dtype = random.choice(list(BOUND))
    group = random.choice((16, 32, 64, 128))
    unit = {"W8A16": 4, "W4A16": 8, "groups": group}.get(kind, 1)
    inputs, outputs = unit * random.randint(1, 1500 // unit), 2 * random.randint(1, 700)
    most = random.choice((1, 2, 8, 9, 16, 32, 64, *((300,) if kind == "int8" else ())))
    rows = random.randint(1, min(70, most))
    case = Case(kind, rows, inputs, outputs, dtype, group)
    bound = {"int8": 0.0, "float8": BOUND[torch.float16]}.get(kind, BOUND[dtype])
    return f"{kind} {rows} of {most} rows, {inputs} to {outputs}, {dtype}", case.error(most), bound


def check_widen() -> tuple[str, float, float]:
    """Widened weights are exact."""
    kind, dtype = random.choice(("W8A16", "W4A16")), random.choice(list(BOUND))
    inputs, outputs = 8 * random.randint(1, 300), random.randint(1, 300)
    case = Case(kind, 1, inputs, outputs, dtype, 0)
    poison()
    wide = widen(case.weight, BITS[kind], dtype)
    return f"widen {kind} {inputs} to {outputs} {dtype}", relative(wide.double(), case.wide), 0.0


def check_attention() -> tuple[str, float, float]:
    """Random lengths, some rows without a sequence; slots that are not live hold NaN."""
    dtype = random.choice((torch.float16, torch.bfloat16))
    batch, kv, group = random.randint(1, 9), random.randint(1, 5), random.choice((1, 1, 2, 3, 8))
    size, slots, rotary = random.choice((16, 64, 80, 96, 128)), random.randint(2, 700), random.random() < 0.5
    heads = kv * group
    width, terms = (heads + 2 * kv) * size, random.choice((1, 4, 8))
    sums = torch.randn(terms, batch, width, device="cuda") / terms**0.5
    by_row, by_column, biased, scaled = (random.random() < 0.5 for _ in range(4))
    rows = torch.rand(batch, device="cuda") + 0.5 if by_row else None
    columns = (torch.rand(width, device="cuda") + 0.5).to(dtype) if by_column else None
    bias = torch.randn(width, device="cuda").to(dtype) if biased else None
    factors = (torch.rand(heads * size, device="cuda") + 0.5).to(dtype) if scaled else None
    qkv = linear.joined(linear.Sums(sums, rows, columns), torch.empty(batch, 1, dtype=dtype, device="cuda"))
    qkv = qkv if bias is None else qkv + bias
    keys, values = (torch.randn(batch, kv, slots, size, device="cuda").to(dtype) for _ in range(2))
    positions = torch.randint(0, slots, (batch,), device="cuda")
    angles = torch.rand(batch, size // 2, device="cuda").repeat(1, 2)
    cos, sin = (angles.cos().to(dtype), angles.sin().to(dtype)) if rotary else (None, None)
    q, k, v = (part.unflatten(1, (-1, size)) for part in qkv.split([heads * size, kv * size, kv * size], 1))
    if cos is not None and sin is not None:
        q, k = (rotate(part[:, None], cos[:, None, None], sin[:, None, None])[:, 0] for part in (q, k))
    dead = torch.arange(slots, device="cuda") >= positions[:, None]
    for cache in (keys, values):
        cache.masked_fill_(dead[:, None, :, None], float("nan"))
    after = keys.clone(), values.clone()
    wanted = torch.zeros(batch, heads, size, dtype=torch.float64, device="cuda")
    for row, position in enumerate(positions.tolist()):
        if position < slots - 1:
            for cache, new in zip(after, (k, v), strict=True):
                cache[row, :, position] = new[row]
            live = (cache[row, :, : position + 1].double().repeat_interleave(group, 0) for cache in after)
            wanted[row] = F.scaled_dot_product_attention(q[row, :, None].double(), *live)[:, 0]
    poison()
    got = decode_attention(sums, rows, columns, bias, cos, sin, keys, values, positions, size**-0.5, factors)
    if factors is not None:
        wanted *= factors.double().view(heads, size)
    flags = f"{terms=}, {rotary=}, {by_row=}, {by_column=}, {biased=}, {scaled=}"
    what = f"attention {batch} x {kv} x {group} heads of {size}, {slots} slots, {dtype}, {flags}"
    error, bound = float((got.double() - wanted).abs().max().nan_to_num(nan=float("inf"))), 2 * BOUND[dtype]
    for cache, expected in zip((keys, values), after, strict=True):
        if not torch.allclose(cache, expected, atol=2 * bound, equal_nan=True):
            error = float("inf")
    return what, error, bound


def checks(count: int) -> int:
    """Run ``count`` checks of each kind; the number that failed."""
    failed = 0
    kinds: list[Callable[[], tuple[str, float, float]]] = [check_widen, check_attention]
    kinds += [lambda kind=kind: check_product(kind) for kind in FORMATS]  # type: ignore[misc]
    for check in kinds:
        worst = 0.0
        for _ in range(count):
            what, error, bound = check()
            worst = max(worst, error)
            if not error <= bound:
                failed += 1
                print(f"FAILED {what}: error {error:.2e}, bound {bound:.0e}", flush=True)
        print(f"{what.split()[0]}: {count} checked, largest error {worst:.1e}", flush=True)
    return failed


def microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Of one call: all of them as a CUDA graph, the best of five."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times) / len(calls) * 1e3


def times() -> None:
    """A table: microseconds for each format, matrix and number of rows."""
    peers = vllm_products()
    print("\n| format | " + " | ".join(f"{name} {rows}" for name in SHAPES for rows in ROWS) + " |")
    print("|---" * (1 + len(SHAPES) * len(ROWS)) + "|")
    for kind in ("cuBLAS", *FORMATS, *peers):
        cells = []
        for outputs, inputs in SHAPES.values():
            for rows in ROWS:
                case = Case(kind if kind in FORMATS else "float", rows, inputs, outputs, torch.float16, 128)
                peer = peers.get(kind)
                calls = peer(case.x, outputs) if peer else cold_calls(case, kind)
                cells.append(f"{microseconds(calls):.1f}")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


def cold_calls(case: Case, kind: str) -> list[Callable[[], Any]]:
    """Calls of a product with weights that are not in the cache."""
    weights = [case.weight.clone() for _ in range(copies(case.weight.nbytes))]
    if kind == "cuBLAS":
        return [partial(F.linear, case.x, weight) for weight in weights]
    return [partial(case.parts, weight, case.rows) for weight in weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checks", type=int, default=150, help="of each kind")
    parser.add_argument("--only", choices=("checks", "times"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    failed = checks(arguments.checks) if arguments.only != "times" else 0
    if arguments.only != "checks":
        times()
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
