"""What the program refuses, as errors that are told to a person. Nothing here imports torch: planning does not."""

from __future__ import annotations

from collections.abc import Mapping

from mmbuild.base.errors import MmbuildError


class TensorRTError(MmbuildError):
    """A TensorRT visual engine that cannot be built, loaded or asked."""


# Kind of a refusal, as the program tells it: code, and what to do.
REFUSALS: Mapping[str, tuple[str, str]] = {
    "import": ("MM566", "Install tensorrt there, or name another Python with `mmbuild config set-tensorrt`"),
    "start": (
        "MM566",
        "Install tensorrt anew there: a library of its own is damaged or missing; or free the GPU",
    ),
    "unsupported": ("MM567", "Use TensorRT 8.6, 10 or 11, bfloat16 with 10 or 11; or visual.backend torch"),
    "version": ("MM568", "Apply the recipe again with the TensorRT that is here, or bring back the other"),
    "sm": ("MM569", "Apply the recipe on this machine, or set `target` in the recipe to this machine"),
    "cuda": ("MM570", "Look whether nvidia-smi sees a GPU; CUDA_VISIBLE_DEVICES may hide it"),
    "parse": ("MM571", "Another TensorRT may know the operator; visual.backend torch does without ONNX"),
    "build": ("MM572", "The action's log has TensorRT's own; a smaller max_batch_size needs less memory"),
    "timings": (
        "MM573",
        "Use the timings of this TensorRT and GPU, under the name that they were written with",
    ),
    "engine": ("MM574", "Check the files with `mmbuild cache verify`, then apply the recipe again"),
    "run": ("MM575", "The GPU may be out of memory: nvidia-smi shows who has it"),
}


def refusal(kind: str, message: str) -> TensorRTError:
    """The error for a refusal of the program; an unknown kind is a fault of the program."""
    code, hint = REFUSALS.get(kind, ("MM576", "Report this with the log"))
    return TensorRTError(message, code=code, hint=hint)
