"""Errors for refusals of the program. Nothing here imports torch, because planning does not."""

from __future__ import annotations

from collections.abc import Mapping

from mmbuild.base.errors import MmbuildError


class TensorRTError(MmbuildError):
    """A TensorRT visual engine cannot be built, loaded or run."""


# Kind of a refusal, as the program reports it: code and hint.
REFUSALS: Mapping[str, tuple[str, str]] = {
    "import": ("MM566", "install tensorrt there, or name another Python with `mmbuild config set-tensorrt`"),
    "start": (
        "MM566",
        "reinstall tensorrt there, because one of its libraries is damaged or missing; or free the GPU",
    ),
    "unsupported": ("MM567", "use TensorRT 8.6, 10 or 11 (bfloat16 needs 10 or 11), or visual.backend torch"),
    "version": ("MM568", "apply the recipe again with the installed TensorRT, or restore the other version"),
    "sm": ("MM569", "apply the recipe on this machine, or set `target` in the recipe to this machine"),
    "cuda": ("MM570", "check whether nvidia-smi sees a GPU; CUDA_VISIBLE_DEVICES may hide it"),
    "parse": ("MM571", "another TensorRT may support the operator; visual.backend torch needs no ONNX"),
    "build": (
        "MM572",
        "see TensorRT's messages in the action's log; a smaller max_batch_size needs less memory",
    ),
    "timings": (
        "MM573",
        "use a timing cache of this TensorRT and GPU, under its original file name",
    ),
    "engine": ("MM574", "check the files with `mmbuild cache verify`, then apply the recipe again"),
    "run": ("MM575", "the GPU may be out of memory: nvidia-smi shows which processes use it"),
}


def refusal(kind: str, message: str) -> TensorRTError:
    """The error for a refusal of the program; an unknown kind is a bug in the program."""
    code, hint = REFUSALS.get(kind, ("MM576", "report this with the log"))
    return TensorRTError(message, code=code, hint=hint)
