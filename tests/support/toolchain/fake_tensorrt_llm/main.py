"""One command: flags read strictly, then the program that stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from support.toolchain.fake_tensorrt_llm import ask, build, convert, visual
from support.toolchain.fake_tensorrt_llm.faults import faults
from support.toolchain.strict_flags import contract, parse, program


def run(version: str, argv: Sequence[str], workdir: str, root: Path, environment: Mapping[str, str]) -> None:
    """Runs what ``argv`` calls in ``root / workdir``, in this process.

    Raises:
        RejectedError: The version's programs would refuse these arguments.
        AssertionError, FileNotFoundError: As the program would.
    """
    name, arguments, ranks = program(argv, workdir)
    execute(version, name, arguments, root / workdir, {**environment, ask.RANKS: str(ranks)})


def execute(
    version: str, name: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> None:
    """Runs the command that the recorded flags know as ``name``; raises as :func:`run`."""
    flags = parse(contract(version)[name], arguments)
    chosen = faults(environment)
    if name == "trtllm-build":
        build.trtllm_build(version, flags, cwd, chosen)
    elif name.endswith("enc_dec/build.py"):
        build.encoder_decoder(flags, cwd, chosen)
    elif name.endswith(("t5/convert.py", "bart/convert.py")):
        convert.raw(name.split("/")[-2], flags, cwd, chosen)
    elif name.endswith("enc_dec/convert_checkpoint.py"):
        convert.two_parts(flags, cwd, chosen)
    elif name.endswith(("convert_checkpoint.py", "quantize.py")):
        architecture = "OPTForCausalLM" if "/opt/" in name else "LlamaForCausalLM"
        convert.decoder_only(architecture, flags, cwd, chosen)
    elif name.endswith(("build_visual_engine.py", "build_multimodal_engine.py")):
        visual.build_visual(version, flags, cwd, chosen)
    else:
        ask.ask(flags, cwd, environment)
