"""Ways to fail, named in the variable STANDIN_FAULTS with commas between them."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "STANDIN_FAULTS"

KNOWN = frozenset(
    {
        "missing_rank",  # the last rank is not written
        "config_only",  # no rank is
        "stale_rank",  # a rank from an earlier build with more ranks is left
        "broken_config",  # config.json ends early
        "table",  # the prompt table has another size
        "batch",  # the engine is for another batch size
        "length",  # ... for other lengths
        "dtype",  # another number format
        "ranks",  # another number of ranks in config.json
        "unquantized",  # the quantization does not happen
        "unpacked",  # config.json declares a quantization, but weights are plain
        "model",  # the products of another model
        "truncated",  # a rank's file is cut
        "pointer",  # a rank's file is a git-LFS pointer
        "tensors",  # a worker failed unseen, and tensors of the last layer are missing
        "version",  # another version's program
        "onnx",  # the parser's error is only logged
    }
)


def faults(environment: Mapping[str, str]) -> frozenset[str]:
    found = frozenset(filter(None, environment.get(VARIABLE, "").split(",")))
    if not found <= KNOWN:
        raise ValueError(f"unknown faults: {sorted(found - KNOWN)}")
    return found
