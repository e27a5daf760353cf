"""What is wrong with a calibrated quantization and its data: told while a recipe is validated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mmbuild.base.diagnostics import Violation, touches
from mmbuild.models.calibration_data import hub_dataset
from mmbuild.models.calibration_data import samples as data
from mmbuild.models.calibration_data.samples import CalibrationError
from mmbuild.models.checkpoint.calibrated_layout import FLOAT8_FROM_SM
from mmbuild.models.families.facts import ModelFacts
from mmbuild.schema.gate_rules import is_dummy
from mmbuild.schema.model import CALIBRATED, Algorithm, Backend, Device, Engine, Recipe

_ALGORITHM = "engine.quantization.algorithm"
_DATA = "engine.quantization.calibration.data"
_SAMPLES = "engine.quantization.calibration.samples"
# What is blamed before the data itself.
_BLAME = {"MM165": (_SAMPLES, _DATA)}

_REVISION = Violation(
    "MM173",
    ("engine.quantization.calibration.revision",),
    "calibration.revision says a commit of a data set on the hub, and calibration.data is a file",
    "Remove calibration.revision, or name hf://datasets/owner/name",
)
_SM = "target.sm"
# Language models that are narrower are demos and tests.
_REAL_WIDTH = 1024


def is_fitted_by_mmbuild(engine: Engine) -> bool:
    """Whether mmbuild fits the quantization on data; the other quantizers of TensorRT-LLM do without it."""
    quantization = engine.quantization
    if quantization.calibration is None:
        return engine.backend == Backend.TORCH and quantization.algorithm in CALIBRATED
    # Weights of 8 and 4 bits are the converters' own with TensorRT-LLM; `none` takes no calibration.
    if engine.backend != Backend.TORCH:
        return quantization.algorithm in CALIBRATED
    return quantization.algorithm is not Algorithm.NONE


def generated_pictures(recipe: Recipe, facts: ModelFacts) -> Iterator[Violation]:
    """A model with real weights that would be fitted on pictures of discs and bars, which is enough for demos."""
    quantization = recipe.engine.quantization
    fitted = recipe.engine.backend == Backend.TORCH and quantization.algorithm in CALIBRATED
    # Encoder-decoders are refused by a rule of their own.
    if (
        fitted
        and is_production_model(recipe, facts)
        and quantization.calibration is None
        and facts.encoder is None
    ):
        yield Violation(
            "MM168",
            (_ALGORITHM,),
            f"{quantization.algorithm} of `{recipe.model.source}` would be fitted on generated pictures, "
            "which are nothing like what the model will be asked about",
            "Name pictures and prompts in engine.quantization.calibration.data",
            "warning",
        )


def is_production_model(recipe: Recipe, facts: ModelFacts) -> bool:
    """Whether the model is one that somebody would use: not of random weights, and larger than the demo models."""
    return facts.llm.hidden_size >= _REAL_WIDTH and not is_dummy(recipe)


def float8_gpu(recipe: Recipe) -> Iterator[Violation]:
    """A GPU that the recipe names and that does not multiply float8; TensorRT-LLM has findings of its own."""
    target, algorithm = recipe.target, recipe.engine.quantization.algorithm
    if target is None or recipe.engine.backend != Backend.TORCH or algorithm is not Algorithm.FP8:
        return
    # On a CPU the number means nothing, which another finding says.
    if target.sm is not None and target.device is not Device.CPU and target.sm < FLOAT8_FROM_SM:
        yield Violation(
            "MM545",
            (_SM, _ALGORITHM),
            f"fp8 needs a GPU of SM {FLOAT8_FROM_SM} or later, and target.sm is {target.sm}",
            "Set engine.quantization to int4_awq or int8, or name another GPU in target.sm",
        )


def _form(named: str) -> list[Violation]:
    try:
        hub_dataset.parse(named)
    except CalibrationError as error:
        return [Violation(error.code, (_DATA,), error.message, error.hint)]
    return []


def calibration_faults(recipe: Recipe, faulty: Collection[str]) -> tuple[list[Violation], list[Path]]:
    """Faults of the calibration data that mmbuild would be given, and the files that were read.

    Args:
        recipe: With absolute paths.
        faulty: Dotted paths that are at fault already; what follows from them is not told.
    """
    quantization = recipe.engine.quantization
    # Of `none` another finding says that it takes no calibration.
    calibration = quantization.calibration
    if (
        calibration is None
        or not is_fitted_by_mmbuild(recipe.engine)
        or touches((_ALGORITHM, _DATA), set(faulty))
    ):
        return [], []
    if hub_dataset.is_data_set(calibration.data):
        return _form(calibration.data), []
    if calibration.revision is not None:
        return [_REVISION], []
    path = Path(calibration.data)
    try:
        samples = data.load(path, calibration.samples, calibration.seed, text_only=calibration.text_only)
    except CalibrationError as error:
        return [Violation(error.code, _BLAME.get(error.code, (_DATA,)), error.message, error.hint)], [path]
    return list(_pictures(path, samples)), [path, *data.images(samples)]


def _pictures(path: Path, samples: Sequence[data.Sample]) -> Iterator[Violation]:
    """The first picture that is none; headers are read, since there may be hundreds."""
    # Late: most recipes calibrate nothing.
    from mmbuild.models.image_files import TAKEN, problem

    for sample in samples:
        found = None if sample.image is None else problem(sample.image, whole=False)
        if found is not None:
            yield Violation(
                "MM517",
                (_DATA,),
                f"calibration data {path}:{sample.line}: the image `{sample.image}` {found}",
                f"give a {TAKEN} file, or remove the line",
            )
            return
