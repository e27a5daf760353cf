from pathlib import Path

import pytest
import weights_on_disk as disk
from build_engine import facts_of

from mmbuild.checkpoint.reader import load_config
from mmbuild.graph import parameters
from mmbuild.steps import convert, quantize
from mmbuild.steps.base import StepContext


@pytest.mark.parametrize(("algorithm", "share"), [("int8", 0.55), ("int4", 0.32)])
def test_the_quantized_demo_model_is_smaller_by_its_bits(
    tmp_path: Path, algorithm: str, share: float
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    plain.mkdir()
    out.mkdir()
    params = parameters.convert(facts_of("llava", {"model": disk.DEMO}), "float16", 1)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=plain))
    seen: list[float | None] = []
    quantize.run(
        StepContext(
            params={"algorithm": algorithm},
            inputs={"checkpoint": plain},
            out=out,
            progress=lambda _, fraction: seen.append(fraction),
        )
    )
    sizes = [(directory / "rank0.safetensors").stat().st_size for directory in (plain, out)]
    assert sizes[1] < share * sizes[0]
    assert load_config(out).quant_algo == {"int8": "W8A16", "int4": "W4A16"}[algorithm]
    assert seen[-1] == 1.0
