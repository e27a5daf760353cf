"""The strict flag parser of the contract tests rejects what argparse rejects, and what argparse tolerates."""

from __future__ import annotations

import pytest

from support.toolchain.strict_flags import RejectedError, parse, program

FLAGS = {
    "--model_dir -i": {"type": "str", "required": True},
    "--tp_size": {"type": "int"},
    "--top_p": {"type": "float"},
    "--dtype": {"type": "str", "choices": ["float16", "bfloat16"]},
    "--nougat": {"type": "flag"},
    "--plugin": {"type": "str", "nargs": "?", "choices": ["float16"]},
    "--texts": {"type": "str", "nargs": "+"},
}


def test_a_right_line_is_read_whole() -> None:
    line = ["-i", "a b", "--tp_size", "2", "--top_p=0.5", "--nougat", "--plugin", "--texts", "x", "y"]
    assert parse(FLAGS, line) == {
        "--model_dir": "a b",
        "--tp_size": 2,
        "--top_p": 0.5,
        "--nougat": True,
        "--plugin": True,
        "--texts": ["x", "y"],
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["-i", "m", "--unknown", "1"], "`--unknown` is no flag"),
        (["-i", "m", "--tp", "2"], "`--tp` is no flag"),  # argparse would take the abbreviation
        (["-i", "m", "extra"], "`extra` is no flag"),
        (["-i", "m", "--tp_size", "two"], "must be int"),
        (["-i", "m", "--tp_size", "2.0"], "must be int"),
        (["-i", "m", "--dtype", "fp16"], "cannot be `fp16`"),
        (["-i", "m", "--plugin", "fp16"], "cannot be `fp16`"),
        (["-i", "m", "--nougat=yes"], "takes no value"),
        (["-i", "m", "--tp_size"], "lacks a value"),
        (["-i", "m", "--texts"], "lacks a value"),
        (["-i", "--nougat"], "lacks a value"),
        (["-i", "m", "--tp_size", "1", "--tp_size", "2"], "given twice"),
        (["--tp_size", "1"], "`--model_dir` is missing"),
    ],
)
def test_a_wrong_line_is_rejected(line: list[str], said: str) -> None:
    with pytest.raises(RejectedError, match=said.replace("`", ".")):
        parse(FLAGS, line)


def test_scripts_are_named_from_the_checkout_and_ranks_are_counted() -> None:
    line = ["mpirun", "-n", "2", "--allow-run-as-root", "python", "../opt/convert.py", "-i", "m"]
    assert program(line, "examples/multimodal") == ("examples/opt/convert.py", ["-i", "m"], 2)
    assert program(["trtllm-build", "-i"], "x") == ("trtllm-build", ["-i"], 1)
    with pytest.raises(RejectedError, match="mpirun"):
        program(["mpirun", "-np", "2", "x", "y"], "")
