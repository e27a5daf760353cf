"""Data model of recipes, format version 1: one closed model per section.

Descriptions feed ``docs/recipe.md`` and the JSON Schema. Validation never changes values: derived numbers are filled
in later, by :mod:`mmbuild.schema.solver`.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from mmbuild.models.calibration_data.samples import DEFAULT_SAMPLES
from mmbuild.models.families import MODULES
from mmbuild.schema import tensorrt_llm_versions
from mmbuild.schema.backend_names import names

Positive = Annotated[int, Field(ge=1, le=1_000_000)]
MOST_ROWS = 2**31 - 1
"""Largest number of rows or tokens of a batch: builders and kernels count them in 32 bits."""
Product = Annotated[int, Field(ge=1, le=MOST_ROWS)]
Text = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
# Names of files and repositories must fit on one line and are safe in scripts.
Name = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*$")]
# Branches, tags and commits as git (git-check-ref-format) and the hub allow them; never an option, never `..`.
Revision = Annotated[
    str,
    Field(
        min_length=1,
        max_length=250,
        pattern=r"^[A-Za-z0-9_]([.]?[A-Za-z0-9_+=@-])*(/[A-Za-z0-9_]([.]?[A-Za-z0-9_+=@-])*)*$",
    ),
]


if TYPE_CHECKING:
    Family = str
else:
    Family = StrEnum("Family", {name.replace("-", "_").upper(): name for name in MODULES})
    Family.__doc__ = "Model families registered in `mmbuild.models.families`."


class Backend(StrEnum):
    """Runtime of the engine."""

    TENSORRT_LLM = "tensorrt-llm"
    TORCH = "torch"
    HF = "hf"


FOR_GPUS = frozenset({Backend.TENSORRT_LLM, Backend.HF})
"""Backends whose results run on GPUs, also when they are built on a machine without one."""

PORTABLE = frozenset({Backend.HF})
"""Backends whose results do not depend on the device that they are built for."""

FITTED = frozenset({Backend.TORCH, Backend.HF})
"""Backends whose quantizations mmbuild computes, and fits to data."""


def _or_added(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A backend of mmbuild, or one that an installed distribution adds."""
    try:
        return handler(value)
    except ValidationError:
        if isinstance(value, str) and value in names():
            return value
        raise


BackendName = Annotated[Backend, WrapValidator(_or_added), PlainSerializer(str, return_type=str)]


class VisualBackend(StrEnum):
    """Runtime of the visual engine."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    TORCH = "torch"


class Dtype(StrEnum):
    """Number format of unquantized weights and activations."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Algorithm(StrEnum):
    """Quantization of the LLM's linear layers."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"
    INT4_AWQ = "int4_awq"
    SMOOTHQUANT = "smoothquant"
    FP8 = "fp8"


WEIGHT_ONLY = frozenset({Algorithm.INT8, Algorithm.INT4})
MOST_RANKS = 64
CALIBRATED = frozenset({Algorithm.INT4_AWQ, Algorithm.SMOOTHQUANT, Algorithm.FP8})
PAIRED = frozenset({Algorithm.INT4, Algorithm.INT4_AWQ})
"""Values of neighbouring outputs share a byte, in TensorRT-LLM's layout."""


class GenerationConfig(StrEnum):
    """Whether to apply the settings in a model's generation_config.json."""

    OBEY = "obey"
    IGNORE = "ignore"


class Device(StrEnum):
    """Kind of device."""

    CPU = "cpu"
    CUDA = "cuda"


class Section(BaseModel):
    """Base of all sections: no unknown keys, immutable, strict types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class VisionSource(Section):
    """Second source of weights, for families with a separate visual tower (BLIP-2, VILA)."""

    source: Name = Field(description="Source of the visual tower; same forms as `model.source`")
    revision: Revision | None = Field(default=None, description="Branch, tag or commit of the source")


class CodeSource(Section):
    """A repository of model code that a TensorRT-LLM toolchain needs (for VILA)."""

    source: Annotated[str, Field(pattern=r"^git\+https://[!-?A-~]+$", max_length=2000)] = Field(
        description="`git+https://...` URL of the repository, without user, password or revision: recipes are stored "
        "with engines"
    )
    revision: Revision = Field(description="Commit or tag of the repository")


class Model(Section):
    """The model to build from."""

    family: Family = Field(
        description="Model family; defines how config.json and weight names are read. `mmbuild init MODEL` finds it"
    )
    source: Name = Field(
        description=(
            "`hf://owner/name`, a directory relative to the file that names it (`~` is the home directory), "
            "`dummy://owner/name` "
            "(random weights of the recorded shapes) or `dummy://./directory` (random weights; "
            "config, tokenizer and processor from the directory)"
        )
    )
    revision: Revision | None = Field(
        default=None, description="Branch, tag or commit of an `hf://` source; default `main`"
    )
    vision: VisionSource | None = Field(default=None, description="Second source, if the family needs one")
    code: CodeSource | None = Field(
        default=None, description="Model code that TensorRT-LLM needs for the family"
    )


class Target(Section):
    """What the engine is built for; default: this host."""

    device: Device | None = Field(default=None, description="Kind of device the engine runs on")
    sm: Annotated[int, Field(ge=50, le=200)] | None = Field(
        default=None, description="CUDA compute capability without the dot, `90` for 9.0"
    )
    isa: Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,40}$")] | None = Field(
        default=None, description="CPU instruction set the engine may use, such as `avx2` or `avx512`"
    )


class Calibration(Section):
    """Calibration data."""

    data: Name = Field(
        description="Path of a JSONL file of {image, prompt, answer?}, with image paths relative to it, or "
        "`hf://datasets/owner/name`; see [quantization.md](quantization.md)"
    )
    revision: Revision | None = Field(
        default=None, description="Branch, tag or commit of an `hf://` data set; default `main`"
    )
    samples: Positive = Field(default=DEFAULT_SAMPLES, description="Number of samples to use")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed for choosing the samples")
    text_only: bool = Field(
        default=False, description="Accept samples without an image, which harm most vision-language models"
    )


class Quantization(Section):
    """Number format of the LLM's weights. A plain word is short for `{algorithm: word}`."""

    algorithm: Algorithm = Field(
        default=Algorithm.NONE, description="`int8` and `int4` are weight-only; the rest is calibrated"
    )
    group_size: Literal[64, 128] | None = Field(
        default=None,
        description="Input features that share a scale, for `int4_awq`; default: the best that fits. With backend "
        "`hf` also for `int4`; default: all",
    )
    calibration: Calibration | None = Field(default=None, description="Data for the calibrated algorithms")


def _from_word(value: Any) -> Any:
    return {"algorithm": value} if isinstance(value, str) else value


class TensorrtLlm(Section):
    """Options of the `tensorrt-llm` backend; always validated, used only if that backend is selected."""

    toolchain: Annotated[str, Field(pattern=tensorrt_llm_versions.PATTERN)] = Field(
        default=tensorrt_llm_versions.DEFAULT,
        examples=list(tensorrt_llm_versions.SUPPORTED),
        description="Version of TensorRT-LLM, in quotes: "
        + ", ".join(f"`'{name}'`" for name in tensorrt_llm_versions.SUPPORTED),
    )
    fused_mlp: bool | Literal["auto"] = Field(
        default="auto",
        description="Fuse gate and up projections; `auto` does so for unquantized weights on one GPU, and omits the "
        "option on several, like upstream's documentation",
    )


class Torch(Section):
    """Options of the `torch` backend; none yet."""


Server = Literal["vllm", "sglang"]


class Hf(Section):
    """Options of the `hf` backend; always validated, used only if that backend is selected."""

    servers: tuple[Server, ...] = Field(
        default=(),
        description="Servers that must load the checkpoint: what they cannot load is an error; for servers that are "
        "not listed it is a warning",
    )


class Engine(Section):
    """The LLM engine. Lengths count tokens."""

    backend: BackendName = Field(
        description="`torch` needs only pip; `tensorrt-llm` needs its toolchain; `hf` writes a checkpoint for vLLM, "
        "SGLang and transformers"
    )
    dtype: Dtype = Field(default=Dtype.FLOAT16, description="Number format of the LLM")
    quantization: Annotated[
        Quantization, BeforeValidator(_from_word, json_schema_input_type=Algorithm | Quantization)
    ] = Field(
        default=Quantization(), description="Quantization of the LLM: a word, or a mapping with options"
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=MOST_RANKS)] = Field(
        default=1, description="Number of ranks that the LLM is split over"
    )
    max_batch_size: Positive = Field(default=1, description="Maximum number of prompts in a batch")
    max_images_per_prompt: Positive = Field(default=1, description="Maximum number of images in one prompt")
    max_beam_width: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Maximum number of beams in a search"
    )
    max_input_len: Positive = Field(
        description="Maximum length of a prompt, text and visual features together; 1 if the model takes no text "
        "(its decoder starts from one token)"
    )
    max_output_len: Positive = Field(description="Maximum number of tokens generated for one prompt")
    generation_config: GenerationConfig = Field(
        default=GenerationConfig.OBEY,
        description="`obey` applies the settings of the model's generation_config.json, as transformers does; "
        "`ignore` only its end tokens; see [generation-settings.md](generation-settings.md)",
    )
    max_multimodal_len: Product | None = Field(
        default=None, description="Rows of the prompt table; computed, and checked if given"
    )
    num_visual_features: Positive | None = Field(
        default=None,
        description="Rows per image in the prompt table; derived from config.json, and checked if given",
    )
    tensorrt_llm: TensorrtLlm = Field(
        default=TensorrtLlm(), description="Options of the tensorrt-llm backend"
    )
    torch: Torch = Field(default=Torch(), description="Options of the torch backend")
    hf: Hf = Field(default=Hf(), description="Options of the hf backend")


class Visual(Section):
    """The visual engine."""

    backend: VisualBackend = Field(default=VisualBackend.AUTO, description="`auto` follows `engine.backend`")
    dtype: Dtype | None = Field(
        default=None, description="Number format of the tower; default `engine.dtype`"
    )
    max_batch_size: Product | None = Field(
        default=None, description="Maximum number of images in a batch; computed, and checked if given"
    )


class Verify(Section):
    """Questions for comparing the built engine with transformers. Without images, pictures are generated."""

    prompts: tuple[Text, ...] = Field(default=(), description="Prompts; each is asked about each image")
    images: tuple[Name, ...] = Field(
        default=(), description="Image files, relative to the file that names them"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=32, description="Tokens compared per prompt"
    )


# `1e-2` is a string in YAML 1.1, but a number in YAML 1.2, JSON and every programming language.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _with_exponent(value: object) -> object:
    """Convert ``1e-2`` to a number; leave anything else, and non-finite values, unchanged."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value) and math.isfinite(float(value)):
        return float(value)
    return value


# Bounds come before the validator: after it, pydantic leaves them out of the JSON Schema.
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_with_exponent)]
Divergence = Annotated[float, Field(ge=0), BeforeValidator(_with_exponent)]
Ratio = Annotated[float, Field(ge=1), BeforeValidator(_with_exponent)]


class Gates(Section):
    """Minimum quality of the engine, relative to the same recipe unquantized."""

    min_answer_agreement: Share | None = Field(default=None, description="Minimum fraction of equal answers")
    max_kl: Divergence | None = Field(
        default=None,
        description="Maximum mean KL divergence of next-token distributions over the answers, in nats; "
        "quantized engines have a default",
    )
    max_perplexity_ratio: Ratio | None = Field(
        default=None,
        description="Maximum ratio of perplexities on the unquantized model's answers; "
        "quantized engines have a default",
    )
    min_greedy_prefix: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Minimum mean number of equal greedy tokens from the start; "
        "differences after the end of an answer do not count",
    )


class Axis(Section):
    """One axis of a matrix, with its own name."""

    key: Name = Field(description="Dotted key that the axis varies, such as `engine.max_batch_size`")
    values: tuple[Any, ...] = Field(min_length=1, description="Values, one variant each")


Values = Annotated[tuple[Any, ...], Field(min_length=1)]


def _number(value: object) -> object:
    """Reject ``true`` and ``1.0``, which Python considers equal to 1."""
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")
    return value


VERSION = 1
Version = Annotated[Literal[1], BeforeValidator(_number)]


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Recipe(Section):
    """A recipe: describes what to build, not how."""

    version: Version = Field(description="Version of the recipe format; always the first line")
    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(
        description="Name of the build: letters, digits, `.`, `_`, `-`; the engine is written to `build/<name>`"
    )
    extends: Name | None = Field(default=None, description="Recipe to start from, relative to this file")
    model: Model = Field(description="The model to build from")
    target: Target | None = Field(default=None, description="What to build for; default this host")
    engine: Engine = Field(description="The LLM engine")
    visual: Visual = Field(default=Visual(), description="The visual engine")
    verify: Verify | None = Field(
        default=None, description="Questions for comparing the engine with transformers"
    )
    gates: Gates | None = Field(default=None, description="Minimum quality of the engine")
    matrix: dict[str, Values | Axis] | None = Field(
        default=None,
        description=(
            "Axes by name: a key of `engine` (`quantization: [none, int8]`), a dotted key, or a name with "
            "`{key, values}`; one variant per combination"
        ),
    )
