"""Calibrated checkpoints of demo models: every family and algorithm, read back; and cut for ranks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

import demo_worlds
from mmbuild.backends.tensorrt_llm.toolchains.checkpoint_reader import release_line
from mmbuild.backends.torch.calibration import fit_scales
from mmbuild.backends.torch.calibration.calibrate import calibrate, calibration_requests
from mmbuild.backends.torch.calibration.fit_scales import LayerFit
from mmbuild.backends.torch.calibration.write import write
from mmbuild.models.calibration_data.samples import CalibrationError, Sample
from mmbuild.models.checkpoint import weight_only
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.models.checkpoint.config import CheckpointConfig
from mmbuild.models.checkpoint.convert import convert
from mmbuild.models.checkpoint.reader import load_config, open_tensors
from mmbuild.models.families import family as family_of
from mmbuild.models.families.facts import LlmFacts
from mmbuild.models.families.processor import Processor, Request, encode, load_processor
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from support.marks import slow_except

MODELS = Path(__file__).parents[4] / "examples" / "models"
FAMILIES = ("llava", "vila", "blip2-opt")
GROUP = 64
Tensors = Mapping[str, torch.Tensor]


def model(family: str) -> Path:
    return MODELS / demo_worlds.MODELS[family]


@cache
def llm(family: str) -> LlmFacts:
    content = json.loads((model(family) / "config.json").read_text())
    return family_of(family).facts(content).llm


@cache
def observed(family: str, algorithm: str) -> dict[str, LayerFit]:
    processor = load_processor(model(family), family)
    requested = demo_worlds.ask(family, 5, 4, held_out=False)
    requests = [encode(processor, one.prompt, list(one.pictures)) for one in requested]
    return calibrate(
        {"model": model(family)},
        family,
        requests,
        algorithm=algorithm,
        group_size=GROUP,
        dtype="float32",
        device="cpu",
    )


def config(family: str, algorithm: str | None, ranks: int = 1, dtype: str = "float32") -> CheckpointConfig:
    how = ALGORITHMS[algorithm] if algorithm else None
    return CheckpointConfig(
        llm(family),
        dtype,
        ranks,
        how.quant_algo if how else None,
        GROUP if how and how.grouped else None,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints of this module, each made once; without an algorithm the unquantized one."""

    @cache
    def make(family: str, algorithm: str | None, ranks: int = 1) -> Path:
        out = tmp_path_factory.mktemp(f"{family}-{algorithm}-{ranks}")
        required = config(family, algorithm, ranks)
        if algorithm is None:
            convert(model(family), out, family, {".": required})
        else:
            write(model(family), out, family, required, observed(family, algorithm))
        return out

    return make


def stored(
    tensors: Tensors, layer: str, algorithm: str, norm: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight [out, in] that is stored, and what its inputs [in] are multiplied by.

    ``norm`` is what SmoothQuant multiplied the norm before the layer by.
    """
    values = tensors[f"{layer}.weight"]
    if algorithm == "fp8":
        return values.float() * tensors[f"{layer}.weights_scaling_factor"], torch.ones(values.shape[1])
    if algorithm == "int4_awq":
        whole = weight_only.unpack(values.t().contiguous()).t()
        scales = tensors[f"{layer}.weights_scaling_factor"].repeat_interleave(GROUP, dim=1)
        return whole * scales, tensors[f"{layer}.prequant_scaling_factor"]
    inputs = norm if norm is not None else 1 / tensors[f"{layer}.smoother"][0]
    return values * tensors[f"{layer}.per_channel_scale"].t(), inputs


def fed_by(layer: str) -> str | None:
    front, _, inside = layer.partition(".attention.") if ".attention." in layer else layer.partition(".mlp.")
    return {
        "qkv": f"{front}.input_layernorm",
        "fc": f"{front}.post_layernorm",
        "gate": f"{front}.post_layernorm",
    }.get(inside)


# Relative errors (root mean square) that rounding to so many levels leaves on trained weights.
BOUNDS = {"int4_awq": 0.2, "smoothquant": 0.02, "fp8": 0.04}


@pytest.mark.parametrize("family", slow_except(FAMILIES, "llava"))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stored_weights_dequantize_to_the_model_s_weights(
    written: Callable[..., Path], family: str, algorithm: str
) -> None:
    plain, made = open_tensors(written(family, None), 0), open_tensors(written(family, algorithm), 0)
    layers = [name.removesuffix(".weight") for name, value in made.items() if value.element_size() == 1]
    assert len(layers) == llm(family).num_hidden_layers * (5 if llm(family).mlp_type == "GatedMLP" else 4)
    for layer in layers:
        norm = f"{fed_by(layer)}.weight"
        ratio = made[norm] / plain[norm] if norm in made else None
        back, inputs = stored(made, layer, algorithm, ratio)
        weight = plain[f"{layer}.weight"] / inputs
        error = (back - weight).square().mean().sqrt() / weight.square().mean().sqrt()
        assert 0 < float(error) < BOUNDS[algorithm], layer
        assert float((inputs - 1).abs().amax()) > 0.1 or algorithm == "fp8", layer


@pytest.mark.parametrize("algorithm", slow_except(ALGORITHMS, "smoothquant"))
def test_all_else_is_as_in_the_unquantized_checkpoint(written: Callable[..., Path], algorithm: str) -> None:
    plain, made = (
        open_tensors(written("blip2-opt", None), 0),
        open_tensors(written("blip2-opt", algorithm), 0),
    )
    quantized = {name for name, value in made.items() if value.element_size() == 1}
    others = {name for name in plain if name not in quantized}
    assert others <= set(made)
    assert "lm_head.weight" in others
    folded = "layernorm" if algorithm == "smoothquant" else "nothing"
    for name in others:
        assert torch.equal(plain[name], made[name]) or folded in name, name


def test_a_norms_bias_is_smoothed_with_its_weight(written: Callable[..., Path]) -> None:
    plain = open_tensors(written("blip2-opt", None), 0)
    made = open_tensors(written("blip2-opt", "smoothquant"), 0)
    name = "transformer.layers.0.input_layernorm"
    ratio = made[f"{name}.weight"] / plain[f"{name}.weight"]
    assert torch.allclose(made[f"{name}.bias"], plain[f"{name}.bias"] * ratio, rtol=1e-4, atol=1e-6)
    assert float((ratio - 1).abs().amax()) > 0.01


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_config_says_how_it_is_quantized_and_is_read_back(
    written: Callable[..., Path], algorithm: str
) -> None:
    assert load_config(written("llava", algorithm)) == config("llava", algorithm)


def axis_of_ranks(layer: str, suffix: str, ndim: int) -> int | None:
    """Which axis of a stored tensor ranks divide, by the definition of tensor parallelism."""
    split_inputs = layer.endswith(("dense", "proj"))
    if suffix in ("activation_scaling_factor",) or (suffix == "weights_scaling_factor" and ndim == 1):
        return None
    if suffix in ("prequant_scaling_factor", "smoother"):
        return ndim - 1 if split_inputs else None
    if suffix == "per_channel_scale":
        return None if split_inputs else 1
    return 1 if split_inputs else 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("family", slow_except(["llava", "blip2-opt"], "llava"))
def test_two_ranks_hold_what_one_holds_cut_in_two(
    written: Callable[..., Path], family: str, algorithm: str
) -> None:
    whole = open_tensors(written(family, algorithm), 0)
    halves = [open_tensors(written(family, algorithm, 2), rank) for rank in (0, 1)]
    facts = llm(family)
    heads = [facts.num_attention_heads, facts.num_key_value_heads, facts.num_key_value_heads]
    seen = 0
    for name, tensor in whole.items():
        layer, _, suffix = name.rpartition(".")
        if f"{layer}.weight" not in whole or whole[f"{layer}.weight"].element_size() != 1 or suffix == "bias":
            continue
        seen += 1
        axis = axis_of_ranks(layer, suffix, tensor.ndim)
        raw = tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        for rank, half in enumerate(halves):
            if axis is None:
                required = raw
            elif layer.endswith("qkv"):
                parts = raw.split([raw.shape[axis] * count // sum(heads) for count in heads], dim=axis)
                required = torch.cat([part.chunk(2, dim=axis)[rank] for part in parts], dim=axis)
            else:
                required = raw.chunk(2, dim=axis)[rank]
            found = half[name]
            assert torch.equal(
                found.view(torch.uint8) if found.dtype == torch.float8_e4m3fn else found, required
            ), name
    assert seen >= 2 * 4 * facts.num_hidden_layers


def test_the_files_hold_exactly_the_tensors_of_the_layout(written: Callable[..., Path]) -> None:
    with safe_open(written("llava", "smoothquant") / "rank0.safetensors", framework="pt") as file:
        names = {name for name in file.keys() if ".layers.0." in name}  # noqa: SIM118
    layer = "transformer.layers.0"
    linears = {
        f"{layer}.{inside}.{suffix}"
        for inside in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
        for suffix in ("weight", "per_channel_scale")
    }
    smoothed = {f"{layer}.attention.dense.smoother", f"{layer}.mlp.proj.smoother"}
    norms = {
        f"{layer}.{norm}_layernorm.{suffix}"
        for norm in ("input", "post")
        for suffix in ("weight", "scale_to_int")
    }
    assert names == linears | smoothed | norms


READERS = yaml.safe_load((Path(__file__).parents[3] / "contracts" / "checkpoint-readers.yaml").read_text())


def required_by_upstream(facts: LlmFacts, algorithm: str, ranks: int, dtype: str) -> dict[str, list[Any]]:
    """What upstream's modules require of one layer: number type and shape by name."""
    own, how = READERS[facts.architecture], READERS["algorithms"][algorithm]
    sizes = {
        "H": facts.hidden_size,
        "Q": facts.num_attention_heads * facts.head_size,
        "K": facts.num_key_value_heads * facts.head_size,
        "I": facts.intermediate_size,
        "T": ranks,
        "G": GROUP,
    }

    def size(formula: Any, **known: int) -> int:
        value = eval(str(formula), {"__builtins__": {}}, {**sizes, **known})
        assert value == int(value)
        return int(value)

    found: dict[str, list[Any]] = {}
    for name, part in own["parts"].items():
        known = {side: size(part[side]) for side in ("outputs", "inputs")}
        tensors = {**how["linear"], **(how.get("row", {}) if part.get("row") else {})}
        for suffix, (kind, *axes) in tensors.items():
            shape = [size(axis, **known) for axis in axes]
            found[f"{name}.{suffix}"] = [dtype if kind == "FT" else kind, shape]
        if part.get("bias"):
            found[f"{name}.bias"] = [dtype, [known["outputs"]]]
    for name, suffixes in own["norms"].items():
        found |= {f"{name}.{suffix}": [dtype, [facts.hidden_size]] for suffix in suffixes}
        found |= {f"{name}.{suffix}": [kind, [1]] for suffix, (kind, _) in how.get("norm", {}).items()}
    return found


# Groups of 64 do not fit the two halves of the demo model with OPT.
CUT = [
    case for case in itertools.product(FAMILIES, ALGORITHMS, (1, 2)) if case != ("blip2-opt", "int4_awq", 2)
]


@pytest.mark.parametrize(
    ("family", "algorithm", "ranks"), slow_except(CUT, *(case for case in CUT if case[0] == "llava"))
)
def test_every_layer_of_every_rank_holds_what_upstreams_modules_require(
    written: Callable[..., Path], family: str, algorithm: str, ranks: int
) -> None:
    facts = llm(family)
    expected = required_by_upstream(facts, algorithm, ranks, "F32")
    for rank in range(ranks):
        with safe_open(written(family, algorithm, ranks) / f"rank{rank}.safetensors", framework="np") as file:
            for number in range(facts.num_hidden_layers):
                prefix = f"transformer.layers.{number}."
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no mapping)
                slices = {name.removeprefix(prefix): file.get_slice(name) for name in names}
                found = {name: [one.get_dtype(), one.get_shape()] for name, one in slices.items()}
                assert found == expected


def test_the_norms_constant_is_one(written: Callable[..., Path]) -> None:
    with safe_open(written("llava", "smoothquant") / "rank0.safetensors", framework="pt") as file:
        assert file.get_tensor("transformer.layers.0.input_layernorm.scale_to_int").tolist() == [1.0]


def test_the_table_and_the_contract_agree_on_what_was_run() -> None:
    for algorithm, how in READERS["algorithms"].items():
        for architecture, versions in how["run"].items():
            for version in SUPPORTED:
                line = release_line(version)
                takes = ALGORITHMS[algorithm].quant_algo in line.calibrated.get(architecture, ())
                assert (takes and line.reader_run) == (version in versions)


def test_pictures_change_what_is_fitted() -> None:
    processor = load_processor(model("llava"), "llava")
    (requested,) = demo_worlds.ask("llava", 5, 1, held_out=False)
    seen = encode(processor, requested.prompt, list(requested.pictures))
    blind = encode(processor, requested.prompt.replace("<image>", "") if requested.prompt else None, [])

    def amax(request: Request) -> float:
        found = calibrate(
            {"model": model("llava")},
            "llava",
            [request],
            algorithm="fp8",
            group_size=None,
            dtype="float32",
            device="cpu",
        )
        return found["layers.0.self_attn.q_proj"].input_amax or 0.0

    assert amax(seen) != pytest.approx(amax(blind), rel=1e-3)


def test_a_gpu_that_runs_out_of_memory_is_reported_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit_scales, "fit", full)
    request = encode(load_processor(model("llava"), "llava"), "how many ?", [])
    with pytest.raises(CalibrationError, match="1 samples does not fit") as caught:
        calibrate(
            {"model": model("llava")},
            "llava",
            [request],
            algorithm="fp8",
            group_size=None,
            dtype="float32",
            device="cpu",
        )
    assert (caught.value.code, "16-bit" in (caught.value.hint or "")) == ("MM463", True)


def test_answers_are_seen_after_their_prompts(tmp_path: Path) -> None:
    processor: Processor = load_processor(model("llava"), "llava")
    picture = tmp_path / "a.png"
    (requested,) = demo_worlds.ask("llava", 1, 1, held_out=False)
    requested.pictures[0].save(picture)
    assert requested.prompt is not None
    bare, answered = calibration_requests(
        processor,
        [Sample(1, picture, requested.prompt), Sample(2, picture, requested.prompt, "three")],
        "llava",
    )
    assert answered.ids[: len(bare.ids)] == bare.ids
    assert processor.tokenizer.decode(answered.ids[len(bare.ids) :]).strip() == "three"


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n damaged"])
def test_a_damaged_picture_is_reported_with_its_line(tmp_path: Path, content: bytes) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(content)
    processor: Any = load_processor(model("llava"), "llava")
    with pytest.raises(CalibrationError, match="line 7") as caught:
        list(calibration_requests(processor, [Sample(7, picture, "question: what ? answer:")], "llava"))
    assert caught.value.code == "MM460"


def test_a_sample_that_is_longer_than_the_models_positions_is_reported_with_its_line() -> None:
    processor: Any = load_processor(model("llava"), "llava")
    (request,) = calibration_requests(processor, [Sample(3, None, "how many ?")], "llava")
    length = len(request.ids)
    (again,) = calibration_requests(processor, [Sample(3, None, "how many ?")], "llava", length + 1)
    assert again.ids == request.ids
    with pytest.raises(CalibrationError, match=f"line 3: it has {length} tokens") as caught:
        list(calibration_requests(processor, [Sample(3, None, "how many ?")], "llava", length))
    assert caught.value.code == "MM460"


def test_a_family_that_requires_an_image_rejects_samples_without_one() -> None:
    processor: Any = load_processor(model("blip2-opt"), "blip2-opt")
    with pytest.raises(CalibrationError, match=r"line 4: .* need an image") as caught:
        list(calibration_requests(processor, [Sample(4, None, "how many ?")], "blip2-opt"))
    assert caught.value.code == "MM460"
