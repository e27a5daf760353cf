"""Decoding several sequences together on the CPU at the width of a 7B model: every precision beside float32.

Two layers of the LLaMA of decode_precisions, timed in the same way: one thread, its own CPU time for a step that adds
one token to each sequence, medians. float32 is run first, in the same command.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from pathlib import Path

from benchmarks.decode_precisions import PRECISIONS, PROMPT, build, engine_config, step_seconds
from benchmarks.report import Row

SEQUENCES = (1, 2, 8)
LAYERS = 2
# Nothing is claimed of FP8 on CPUs.
BOUNDED = ("int8", "int4", "int4_awq", "smoothquant")


def measure() -> list[Row]:
    """One row for each precision and number of sequences."""
    rows, baseline = [], {}
    for name, quant_algo in PRECISIONS.items():
        found = steps(quant_algo)
        baseline = baseline or found
        rows += [
            Row(
                f"{name}, {sequences} sequences",
                f"{seconds * 1e3:.0f} ms a step",
                f"float32 {baseline[sequences] * 1e3:.0f} ms: {baseline[sequences] / seconds:.2f} times as fast",
                "1 times as fast" if name in BOUNDED else "-",
            )
            for sequences, seconds in found.items()
        ]
    return rows


def steps(quant_algo: str | None) -> dict[int, float]:
    """Seconds of a step by number of sequences."""
    config = engine_config(quant_algo)
    llm = dataclasses.replace(config.llm, num_hidden_layers=LAYERS)
    config = dataclasses.replace(config, llm=llm, max_batch_size=max(SEQUENCES))
    found = {}
    with tempfile.TemporaryDirectory(prefix="mmbuild-rows-") as room:
        session = build(Path(room), config)
        for sequences in SEQUENCES:
            session.prefill([PROMPT] * sequences, session.empty_prompt_table())
            found[sequences] = step_seconds(session, sequences)
        del session
        gc.collect()
    return found
