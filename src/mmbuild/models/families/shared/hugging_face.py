"""Loads processors and models with the classes of transformers."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbuild.base.files import entries, require_regular
from mmbuild.base.silence import quiet
from mmbuild.models.errors import EngineError, SourceError
from mmbuild.models.families.processor import first_line
from mmbuild.models.files.tokenizer_library import TokenizersError, library_errors
from mmbuild.models.images import require_pixels


def saved_processor(directory: Path) -> Any:
    """transformers' processor in ``directory``; Pillow is enough, torchvision is not needed.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read, or transformers finds only one of them.
    """
    _quietly()
    from transformers import AutoProcessor

    loaded = _saved(AutoProcessor, directory, backend="pil")
    if getattr(loaded, "tokenizer", None) is None or getattr(loaded, "image_processor", None) is None:
        raise EngineError(
            f"transformers loads no processor from `{directory}`, but a {type(loaded).__name__}",
            code="MM516",
            hint="remove `processor_class` from the model's files: the class then follows from config.json",
        )
    return loaded


def saved_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer in ``directory``.

    Raises:
        EngineError: MM516, it cannot be read.
    """
    _quietly()
    from transformers import AutoTokenizer

    return _saved(AutoTokenizer, directory)


def saved_image_processor(directory: Path) -> Any:
    """The image processor in ``directory``, with transformers' Pillow backend.

    Raises:
        EngineError: MM516, it cannot be read.
    """
    _quietly()
    # The plain class names in transformers are the torchvision variants.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return _saved(AutoImageProcessor, directory, backend="pil")


def token_ids(tokenizer: Any, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """The ids of ``text``.

    Raises:
        EngineError: MM516, the tokenizers library cannot encode it, such as an unknown word without an unknown token.
    """
    try:
        with library_errors():
            ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    except TokenizersError as error:
        raise _tokenizer_fails(error) from error
    return ids


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens.

    Raises:
        EngineError: MM516, the tokenizers library cannot decode them.
    """
    try:
        with library_errors():
            text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    except TokenizersError as error:
        raise _tokenizer_fails(error) from error
    return text


def unsettled_characters(tokenizer: Any) -> int:
    """Number of characters at the end of a text that may still change when the tokens after them are known.

    ``clean_up_tokenization_spaces`` removes spaces before punctuation and contractions from a text as a whole.
    """
    return _CLEANED if tokenizer.clean_up_tokenization_spaces else 0


_CLEANED = 16  # what is replaced has at most four characters; several may follow each other


def _tokenizer_fails(error: TokenizersError) -> EngineError:
    return EngineError(
        f"the model's tokenizer fails: {first_line(error)}",
        code="MM516",
        hint="compare tokenizer.json with the model's original",
    )


def pixels_of(image_processor: Any, pictures: Sequence[Any]) -> Tensor:
    """Preprocessed images, float32 [images, channels, height, width].

    Raises:
        EngineError: MM516, the image processor's settings are inconsistent.
        PictureError: MM517, an image would become too large.
    """
    for picture in pictures:
        require_pixels(*_resized(image_processor, picture.width, picture.height))
    try:
        pixels: Tensor = image_processor(list(pictures), return_tensors="pt")["pixel_values"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise EngineError(
            f"the model's image processor fails: {first_line(f'{type(error).__name__} {error}')}",
            code="MM516",
            hint="compare preprocessor_config.json or processor_config.json with the model's original",
        ) from error
    return pixels


def _resized(image_processor: Any, width: int, height: int) -> tuple[int, int]:
    """Check the largest size of an image during preprocessing, from the size of its shorter side."""
    size = getattr(image_processor, "size", None)
    sides = [side for side in dict(size or {}).values() if isinstance(side, int)]
    # 12 bytes per pixel when an image is opened, and ten times as many in transformers' arithmetic.
    scale = min(sides, default=0) / max(1, min(width, height)) * _ARITHMETIC
    return max(1, int(width * scale)), max(1, int(height * scale))


_ARITHMETIC = math.sqrt(10)


def _quietly() -> None:
    """Suppress transformers' advice about unneeded packages; called before importing it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def pretrained(kind: Any, directory: Path, **options: Any) -> Any:
    """``kind.from_pretrained(directory)`` with local files only, and without the model's code.

    Without ``trust_remote_code=False`` transformers asks on the terminal whether to run a model's code.

    Args:
        kind: A class of transformers.
        directory: Must contain only regular files.
        options: Passed on.

    Raises:
        FileRefusedError: MM745, the directory contains a pipe, a device or a socket.
        Exception: Any error of transformers; ValueError if the model requires its own code.
    """
    for path in entries(directory):
        if not path.is_dir():
            require_regular(path)
    return kind.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **options)


def _saved(kind: Any, directory: Path, **options: Any) -> Any:
    try:
        # A panic of the tokenizers library writes a backtrace to standard error.
        with quiet(native=True), library_errors():
            loaded = pretrained(kind, directory, **options)
            tokenizer = loaded if hasattr(loaded, "encode") else getattr(loaded, "tokenizer", None)
            if tokenizer is not None:
                tokenizer("")  # the post-processor of tokenizer.json is first used here
            return loaded
    # Unchecked settings can fail anywhere in transformers.
    except _OF_TRANSFORMERS as error:
        raise EngineError(
            f"the processor in `{directory}` cannot be loaded: {first_line(error)}",
            code="MM516",
            hint=_SENTENCEPIECE
            if (directory / "tokenizer.model").is_file() and not (directory / "tokenizer.json").is_file()
            else "the model needs tokenizer.json, preprocessor_config.json and processor_config.json",
        ) from error


_OF_TRANSFORMERS = (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError, AttributeError)
# the message of transformers would be about tiktoken, which cannot read such a file
_SENTENCEPIECE = (
    "tokenizer.model is a SentencePiece file, and there is no tokenizer.json: "
    "pip install sentencepiece protobuf"
)


def load_model(sources: Mapping[str, Path], dtype: torch.dtype, device: str) -> Any:
    """Load the model in ``sources["model"]`` with transformers.

    Raises:
        EngineError: MM563, transformers cannot load it.
    """
    from transformers import AutoModelForImageTextToText

    return load_quietly(AutoModelForImageTextToText, sources["model"], dtype).to(device)


def load_quietly(kind: Any, directory: Path, dtype: torch.dtype) -> Any:
    """Load the model in ``directory`` with ``kind``, a class of transformers, without progress bars.

    Raises:
        EngineError: MM563, transformers cannot load it, or would initialize weights missing from the files.
    """
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model, found = pretrained(kind, directory, dtype=dtype, weights_only=True, output_loading_info=True)
    except (*_OF_TRANSFORMERS, SafetensorError) as error:
        raise _unloadable(directory, first_line(error)) from error
    if found["missing_keys"]:
        raise _unloadable(directory, f"the weights hold no `{sorted(found['missing_keys'])[0]}`")
    return model.eval()


def _unloadable(directory: Path, why: str) -> EngineError:
    return EngineError(
        f"transformers cannot load `{directory}`: {why}",
        code="MM563",
        hint="give the model directory that the engine was built from with --model",
    )


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model, from transformers' modules without allocating memory.

    Raises:
        SourceError: MM440, transformers does not support the model.
    """
    from transformers import AutoModelForImageTextToText

    return shapes_of(AutoModelForImageTextToText.from_config, config)


def shapes_of(from_config: Callable[[Any], Any], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of ``from_config(config)`` that a file would contain.

    Raises:
        SourceError: MM440, transformers does not support the model.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind = CONFIG_MAPPING[config["model_type"]]
        with torch.device("meta"):
            # Some config classes modify their sections in place.
            model = from_config(kind.from_dict(copy.deepcopy(dict(config))))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = first_line(f"{type(error).__name__} {error}")
        raise SourceError(
            f"transformers makes no model of this config.json: {why}",
            code="MM440",
            hint="check config.json, or use the model's real weights",
        ) from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
