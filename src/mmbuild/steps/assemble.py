"""Step ``assemble``: combines checkpoint, packages, visual engine and processor files in one engine directory.

Files are hard links to the input files. Only the small files of a model that lies outside the store are copied,
because the engine must not depend on it. The step checks that the parts agree, because a mismatch would only
show up as wrong answers: the dtype of the features and of the LLM, the sizes of both engines, the checkpoint
and the packages.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmbuild.backends.engine_dir import description
from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import read_object
from mmbuild.base.limits import CHECKPOINT_CONFIG
from mmbuild.base.progress import BYTES, Amount, Progress
from mmbuild.core.steps.context import StepContext, link
from mmbuild.models.checkpoint.config import from_json
from mmbuild.models.families import family
from mmbuild.models.families.facts import LlmFacts, shape_of
from mmbuild.models.files.generation_settings import (
    GenerationSettings,
    Reader,
    SettingsFinding,
    SettingsReading,
    read_directory,
)
from mmbuild.models.files.hf_layout import SMALL


class AssembleError(MmbuildError):
    """The parts of an engine do not fit together."""


def run(context: StepContext) -> None:
    """``params``: ``{"family", "image_token_id", "generation_config", "toolchain"}``; inputs: ``checkpoint``,
    ``llm``, ``visual``, ``model`` and optionally ``visual_weights`` and ``vision``.

    Raises:
        AssembleError: Two parts contradict each other, or a part is incomplete.
        SettingsError: MM721 or MM722, the model's generation settings cannot be used or read.
    """
    inputs, out = context.inputs, context.out
    llm = _json(inputs["llm"] / "llm.json")
    visual = _json(inputs["visual"] / "visual.json")
    check_features(llm, visual)
    files = [
        (inputs["llm"] / f"{name}.pt2", f"{description.LLM}/{name}.pt2") for name in description.packages(llm)
    ]
    files += _files_in(inputs["llm"] / description.KERNELS, f"{description.LLM}/{description.KERNELS}")
    for component in description.components(llm):
        checkpoint = inputs["checkpoint"] / component
        stored = check_checkpoint(llm, _json(checkpoint / "config.json"), component)
        files += _checkpoint_files(checkpoint, f"{description.LLM}/{component}", llm["tensor_parallel"])
        # Packages are compiled for one layer, of which the checkpoint says how many there are.
        llm["encoder" if component == "encoder" else "llm"]["num_hidden_layers"] = stored.num_hidden_layers
    for part in ("visual", "visual_weights"):
        if part in inputs:
            files += _files_in(inputs[part], description.VISUAL)
    _link_all(files, out, context.progress)
    copy_processor(inputs, out / description.PROCESSOR)
    description.write(out, _description(context, llm, visual))


def _files_in(directory: Path, place: str) -> list[tuple[Path, str]]:
    """All files of a directory, if there is one, with their places in the engine below ``place``."""
    files = [path for path in sorted(directory.rglob("*")) if not path.is_dir()]
    return [(path, f"{place}/{path.relative_to(directory)}") for path in files]


def _checkpoint_files(checkpoint: Path, place: str, ranks: int) -> list[tuple[Path, str]]:
    """Config and rank files of one component, with their places in the engine below ``place``."""
    names = [f"rank{rank}.safetensors" for rank in range(ranks)]
    for name in names:
        if not (checkpoint / name).exists():
            raise AssembleError(f"the checkpoint has no {name}", code="MM550", hint="apply the recipe again")
    return [(checkpoint / name, f"{place}/{name}") for name in ("config.json", *names)]


def _link_all(files: Sequence[tuple[Path, str]], out: Path, progress: Progress) -> None:
    """Link files to their places in ``out``; across file systems that copies them."""
    sizes = [path.stat().st_size for path, _ in files]
    done, total = 0, sum(sizes)
    for (path, place), size in zip(files, sizes, strict=True):
        link(path, out / place)
        done += size
        progress(f"linked {place}", Amount(done, total, BYTES))


def copy_processor(sources: Mapping[str, Path], out: Path) -> None:
    """Copy the files that a processor is loaded from: everything except weights, with the same subdirectories.

    They are copied, not linked: a hard link to a file of the user changes its ctime, and other builds that read it
    at that moment would report that it was written to.

    Args:
        sources: Directories by name; uses ``model`` and ``vision`` (optional).
        out: Destination; files of ``vision`` go to its subdirectory ``vision``.
    """
    for source, below in (("model", "."), ("vision", "vision")):
        if source in sources:
            _copy_small(sources[source], out / below)


def _copy_small(model: Path, out: Path) -> None:
    for path in sorted(model.rglob("*")):
        if path.name in SMALL and path.is_file():
            destination = out / path.relative_to(model)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)


def _description(
    context: StepContext, llm: Mapping[str, Any], visual: Mapping[str, Any]
) -> description.Description:
    params = context.params
    settings = _settings(context, llm)
    return description.Description(
        family=params["family"],
        backend="torch",
        llm=llm,
        visual=visual,
        target=dict(context.target),
        toolchain=dict(params["toolchain"]),
        image_token_id=params["image_token_id"],
        eos_token_ids=settings.eos_token_ids,
        generation_settings=dict(settings.fields),
        settings_not_applied=dict(settings.not_applied),
        obeys_generation_config=params["generation_config"] == "obey",
    )


def _settings(context: StepContext, llm: Mapping[str, Any]) -> GenerationSettings:
    """The model's generation settings. Findings about them go to the step's log."""
    reader = Reader(
        vocab_size=llm["llm"]["vocab_size"],
        encoder_decoder=llm["llm"]["cross_attention"],
        beams=llm["max_beam_width"] > 1,
        obey=context.params.get("generation_config", "obey") == "obey",
    )
    return read_logged(context.inputs["model"], context.params["family"], reader).require()


def read_logged(model: Path, family_name: str, reader: Reader) -> SettingsReading:
    """Read the generation settings of a model directory and write findings about them to the step's log.

    Raises:
        SettingsError: MM722, a settings file cannot be read.
    """
    place = family(family_name).settings_place(_json(model / "config.json"))
    reading = read_directory(model, place, reader)
    log_findings(item for item in reading.findings if item.severity == "warning")
    return reading


def log_findings(findings: Iterable[SettingsFinding]) -> None:
    """Write warnings about generation settings to the step's log."""
    for item in findings:
        print(f"warning: {item.message} [{item.code}]")


def check_checkpoint(llm: Mapping[str, Any], checkpoint: Mapping[str, Any], component: str = ".") -> LlmFacts:
    """Check that a checkpoint has the shapes, the tensor parallelism and the quantization of the packages.

    Args:
        llm: ``EngineConfig`` as JSON.
        checkpoint: ``config.json`` of one component.
        component: ``.``, ``encoder`` or ``decoder``.

    Returns:
        The stack of layers that the checkpoint holds.

    Raises:
        AssembleError: MM551, naming the first field that differs.
    """
    built = {**llm, **llm["encoder" if component == "encoder" else "llm"]}
    try:
        stored = from_json(checkpoint)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise AssembleError(
            f"the checkpoint's config.json cannot be used: {type(error).__name__}: {error}",
            code="MM551",
            hint="run `mmbuild cache verify`, then apply the recipe again",
        ) from error
    fields = asdict(shape_of(stored.llm)) | {
        "dtype": stored.dtype,
        "quant_algo": stored.quant_algo,
        "tensor_parallel": stored.tensor_parallel,
        "group_size": stored.group_size,
    }
    for key, value in fields.items():
        if built.get(key) != value:
            raise AssembleError(
                f"the checkpoint's {key} is {value}, but the LLM engine was built for {built.get(key)}",
                code="MM551",
                hint="the model's config.json changed since planning, or the store is damaged: "
                "compare config.json, run `mmbuild cache verify`",
            )
    return stored.llm


def check_features(llm: Mapping[str, Any], visual: Mapping[str, Any]) -> None:
    """Check that the prompt table can hold the features of the visual engine.

    Raises:
        AssembleError: MM552, the dtypes differ; MM553, the numbers of features and rows differ.
    """
    if visual["feature_dtype"] != llm["dtype"]:
        raise AssembleError(
            f"visual features are {visual['feature_dtype']}, but the LLM's prompt table is {llm['dtype']}",
            code="MM552",
        )
    per_sequence = llm["llm"]["cross_attention"] and llm["encoder"] is None
    images = 1 if per_sequence else visual["max_batch_size"]
    rows = images * visual["num_visual_features"]
    if rows != llm["max_multimodal_len"]:
        raise AssembleError(
            f"{images} images x {visual['num_visual_features']} features = {rows}, "
            f"but the LLM's max_multimodal_len is {llm['max_multimodal_len']}",
            code="MM553",
        )


def _json(path: Path) -> dict[str, Any]:
    return read_object(path, CHECKPOINT_CONFIG)
