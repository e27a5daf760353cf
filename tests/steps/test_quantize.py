from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from mmbuild.backends.lowering import step_params
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint import weight_only, weight_only_fit
from mmbuild.models.checkpoint.reader import load_config, open_tensors
from mmbuild.schema.tensorrt_llm_versions import SUPPORTED
from mmbuild.steps import calibration_data, convert, quantize
from support.engines.build import facts_of
from support.marks import slow_except
from support.models import weights_on_disk as disk
from support.servers.data_set_hub import FIRST, REPO, serving


@pytest.mark.parametrize(("algorithm", "share"), [("int8", 0.55), ("int4", 0.32)])
def test_the_quantized_demo_model_is_smaller_by_its_bits(
    tmp_path: Path, algorithm: str, share: float
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    plain.mkdir()
    out.mkdir()
    params = step_params.convert(facts_of("llava", {"model": disk.DEMO}), "float16", 1)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=plain))
    seen: list[float | None] = []
    quantize.run(
        StepContext(
            params={"algorithm": algorithm},
            inputs={"checkpoint": plain},
            out=out,
            progress=lambda _, amount: seen.append(amount.fraction),
        )
    )
    sizes = [(directory / "rank0.safetensors").stat().st_size for directory in (plain, out)]
    assert sizes[1] < share * sizes[0]
    assert load_config(out).quant_algo == {"int8": "W8A16", "int4": "W4A16"}[algorithm]
    assert seen[-1] == 1.0


ANSWERED = disk.DEMO.parents[1] / "calibration" / "llava.jsonl"


def calibrated(
    out: Path,
    algorithm: str,
    data: Path | None,
    inputs: Mapping[str, Path] = MappingProxyType({}),
    **requested: object,
) -> Path:
    out.mkdir()
    facts = facts_of("llava", {"model": disk.DEMO})
    calibration = {
        "samples": 4,
        "seed": 0,
        **({"text_only": False} if data else {"prompts": ["what ?"]}),
        **requested,
    }
    params = {
        **step_params.convert(facts, "float16", 1),
        "algorithm": algorithm,
        "group_size": 128 if algorithm == "int4_awq" else None,
        "image_size": list(facts.visual.image_size),
        "calibration": calibration,
    }
    locators = {"data": str(data)} if data else {}
    quantize.run(
        StepContext(params=params, inputs={"model": disk.DEMO, **inputs}, locators=locators, out=out)
    )
    return out


@pytest.mark.parametrize("data", slow_except([ANSWERED, None], None), ids=["data", "generated"])
def test_a_model_and_data_become_a_calibrated_checkpoint(
    tmp_path: Path, data: Path | None, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(calibrated(tmp_path / "out", "int4_awq", data))
    assert (config.quant_algo, config.group_size, config.dtype) == ("W4A16_AWQ", 128, "float16")
    reported = capfd.readouterr().out
    assert f"readable by TensorRT-LLM {', '.join(SUPPORTED[:-1])}: tested by running" in reported
    assert f"readable by TensorRT-LLM {SUPPORTED[-1]} according to their sources; not tested" in reported
    # No temporary files remain.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "rank0.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    written = [
        (calibrated(tmp_path / name, "fp8", ANSWERED, seed=seed) / "rank0.safetensors").read_bytes()
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    ]
    assert written[0] == written[1] != written[2]


def test_samples_of_a_data_set_give_the_same_result_as_a_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {
        f"pictures/{path.name}": path.read_bytes() for path in (ANSWERED.parent / "pictures").iterdir()
    }
    with serving({"llava.jsonl": ANSWERED.read_bytes(), **pictures}, tmp_path / "cache", monkeypatch):
        fetched = tmp_path / "fetched"
        fetched.mkdir()
        request = {"repo": REPO, "commit": FIRST, "file": None, "samples": 4, "seed": 6, "text_only": False}
        calibration_data.run(StepContext(params=request, out=fetched))
    local = calibrated(tmp_path / "local", "fp8", ANSWERED, seed=6)
    remote = calibrated(tmp_path / "remote", "fp8", None, inputs={"data": fetched}, seed=6, text_only=False)
    assert (local / "rank0.safetensors").read_bytes() == (remote / "rank0.safetensors").read_bytes()


@pytest.mark.parametrize(("algorithm", "ranks"), [("int8", 1), ("int4", 2)])
def test_weight_only_scales_are_fitted_to_the_inputs_of_each_rank(
    tmp_path: Path, algorithm: str, ranks: int
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    plain.mkdir()
    out.mkdir()
    facts = facts_of("llava", {"model": disk.DEMO})
    params = step_params.convert(facts, "float16", ranks)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=plain))
    request = {"samples": 4, "seed": 0, "text_only": False}
    context = StepContext(
        params={**params, "algorithm": algorithm, "image_size": [64, 64], "calibration": request},
        inputs={"checkpoint": plain, "model": disk.DEMO},
        locators={"data": str(ANSWERED)},
        out=out,
        cores=2,
    )
    quantize.run(context)
    assert load_config(out).quant_algo == weight_only.ALGORITHMS[algorithm].quant_algo
    moments = quantize._moments(context)
    for rank in range(ranks):
        before, after = open_tensors(plain, rank), open_tensors(out, rank)
        for name, whole in moments.items():
            cut = before[name].shape[1]
            own = whole.columns((rank * cut, (rank + 1) * cut)) if cut < len(whole.mean) else whole
            values, scales = weight_only_fit.quantize(before[name], weight_only.ALGORITHMS[algorithm], own)
            assert torch.equal(after[name], values)
            assert torch.equal(after[name.removesuffix("weight") + "per_channel_scale"], scales)
        assert not torch.equal(
            after["transformer.layers.1.mlp.proj.per_channel_scale"],
            weight_only.quantize(
                before["transformer.layers.1.mlp.proj.weight"], weight_only.ALGORITHMS[algorithm]
            )[1],
        )
