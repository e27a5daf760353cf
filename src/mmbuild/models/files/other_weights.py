"""Recognizes weight files that are not in Hugging Face layout, for hints."""

from __future__ import annotations

import re
from pathlib import Path

from mmbuild.base.files import entries
from mmbuild.base.terminal_text import one_line

# Pattern of a file's name, and what to do instead; the first match counts.
_OTHERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r".*\.(gguf|ggml)|ggml.*\.bin",
            "`{}` is a file of llama.cpp, usually quantized: use the model that it was made from, "
            "in Hugging Face layout",
        ),
        (
            r"(model|pytorch_model)\.[\w-]+\.(safetensors|bin)(\.index\.json)?",
            "`{}` is a variant: load it with transformers (`variant=`), and save it again without one",
        ),
        (
            r"consolidated.*",
            "`{}` is in the layout of the model's authors: use the model in Hugging Face layout",
        ),
        (
            r"tf_model.*\.h5|flax_model.*\.msgpack",
            "`{}` holds weights for TensorFlow or JAX: save the model again for PyTorch",
        ),
        (
            r".*\.(onnx|engine|plan|pte|tflite|mlmodel)",
            "`{}` is a compiled or exported model: use the model that it was made from",
        ),
        (
            r".*\.(pt|pth|ckpt|tar)",
            "`{}` is a checkpoint of a training program: convert it to Hugging Face layout, or name it "
            "`pytorch_model.bin` if it holds the tensors alone under the names of transformers",
        ),
        (
            r"(?!adapter|training_args|optimizer|scheduler|mm_projector|non_lora).*\.(safetensors|bin)",
            "`{}` is not called as save_pretrained calls weights: rename it to `model.safetensors` or "
            "`pytorch_model.bin` if it holds the whole model",
        ),
    )
)


def hint_for_other_weights(directory: Path) -> str | None:
    """What to do about the weights in a directory without weights in Hugging Face layout; None if there are none."""
    names = sorted(path.name for path in entries(directory) if path.is_file())
    return next((hint for name in names if (hint := hint_for(name)) is not None), None)


def hint_for(name: str) -> str | None:
    """What to do instead of naming a file of weights; None if its name is not that of one."""
    hint = next((hint for pattern, hint in _OTHERS if pattern.fullmatch(name)), None)
    return None if hint is None else hint.format(one_line(name))
