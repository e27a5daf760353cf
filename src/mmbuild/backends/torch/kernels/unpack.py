"""Packed integers to the operands of tensor cores, two numbers an instruction.

A bit pattern that holds b in the lowest bits of 1024 (float16) or 128 (bfloat16) is ``1024 + b`` or ``128 + b``. So
one logic operation and one subtraction make two numbers, where a conversion instruction would take a quarter of the
rate for each. The instructions are written out because Triton widens numbers one by one.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nibble(pairs, PLACE: tl.constexpr, dtype: tl.constexpr):
    """Signed nibble PLACE (0 to 3, 0 the lowest) of int16 numbers, in ``dtype``."""
    return bfloat16_nibble(pairs, PLACE) if dtype == tl.bfloat16 else float16_nibble(pairs, PLACE).to(dtype)


@triton.jit
def float16_nibble(pairs, PLACE: tl.constexpr):
    """Signed nibble PLACE of int16 numbers in float16."""
    # A nibble n with its sign bit flipped is n + 8: as the lowest bits of 1024 that is 1032 + n. Four bits higher it
    # is 1024 + 16 * (n + 8), a sixteenth of which is 72 + n, which saves a shift.
    if PLACE == 0:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64086408;"
            " lop3.b32 t, $1, 0x000f000f, c, 0x6a; sub.f16x2 $0, t, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    elif PLACE == 1:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, s, c; mov.b32 s, 0x2c002c00; mov.b32 c, 0xd480d480;"
            " lop3.b32 t, $1, 0x00f000f0, 0x64806480, 0x6a; fma.rn.f16x2 $0, t, s, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    elif PLACE == 2:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64086408; shr.u32 t, $1, 8;"
            " lop3.b32 t, t, 0x000f000f, c, 0x6a; sub.f16x2 $0, t, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, s, c; mov.b32 s, 0x2c002c00; mov.b32 c, 0xd480d480; shr.u32 t, $1, 8;"
            " lop3.b32 t, t, 0x00f000f0, 0x64806480, 0x6a; fma.rn.f16x2 $0, t, s, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    return y


@triton.jit
def bfloat16_nibble(pairs, PLACE: tl.constexpr):
    """Signed nibble PLACE of int16 numbers in bfloat16."""
    # bfloat16 has too few bits for a nibble above the lowest four, so each is shifted down.
    if PLACE == 0:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, o, c; mov.b32 o, 0x3f803f80; mov.b32 c, 0xc308c308;"
            " lop3.b32 t, $1, 0x000f000f, 0x43084308, 0x6a; fma.rn.bf16x2 $0, t, o, c; }",
            "=r,r",
            [pairs],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    elif PLACE == 1:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, o, c; mov.b32 o, 0x3f803f80; mov.b32 c, 0xc308c308; shr.u32 t, $1, 4;"
            " lop3.b32 t, t, 0x000f000f, 0x43084308, 0x6a; fma.rn.bf16x2 $0, t, o, c; }",
            "=r,r",
            [pairs],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    elif PLACE == 2:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, o, c; mov.b32 o, 0x3f803f80; mov.b32 c, 0xc308c308; shr.u32 t, $1, 8;"
            " lop3.b32 t, t, 0x000f000f, 0x43084308, 0x6a; fma.rn.bf16x2 $0, t, o, c; }",
            "=r,r",
            [pairs],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    else:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, o, c; mov.b32 o, 0x3f803f80; mov.b32 c, 0xc308c308; shr.u32 t, $1, 12;"
            " lop3.b32 t, t, 0x000f000f, 0x43084308, 0x6a; fma.rn.bf16x2 $0, t, o, c; }",
            "=r,r",
            [pairs],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    return y


@triton.jit
def byte(pairs, PLACE: tl.constexpr, dtype: tl.constexpr):
    """Signed byte PLACE (0 or 1, 0 the lowest) of int16 numbers, in ``dtype``."""
    # With its sign bit flipped, as the lowest bits of 1024, it is 1152 plus its value. bfloat16 holds every int8.
    if PLACE == 0:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64806480;"
            " lop3.b32 t, $1, 0x00ff00ff, c, 0x6a; sub.f16x2 $0, t, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        y = tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64806480; shr.u32 t, $1, 8;"
            " lop3.b32 t, t, 0x00ff00ff, c, 0x6a; sub.f16x2 $0, t, c; }",
            "=r,r",
            [pairs],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    return y.to(dtype)


@triton.jit
def part_of_word(words, PLACE: tl.constexpr, BITS: tl.constexpr, dtype: tl.constexpr):
    """Signed number PLACE of int32 words of 32 / BITS numbers (BITS 4 or 8), in ``dtype``."""
    half = (words >> 16 * (PLACE * BITS // 16)).to(tl.int16)
    return nibble(half, PLACE % 4, dtype) if BITS == 4 else byte(half, PLACE % 2, dtype)
