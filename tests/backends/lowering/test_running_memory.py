"""The estimate of what an engine takes to run, beside the sizes of the engine itself."""

from pathlib import Path

import pytest

from mmbuild.backends.lowering import step_params
from mmbuild.backends.lowering.running_memory import running_memory
from mmbuild.backends.torch.config import from_json
from mmbuild.pipeline.load import load_recipes

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["llava", "vila", "blip2-opt", "blip2-t5", "nougat"])
def test_caches_are_those_that_the_engine_allocates(name):
    (variant,) = load_recipes([ROOT / "recipes" / "demo" / f"{name}.yaml"]).variants
    engine = variant.recipe.engine
    limits = {
        key: getattr(engine, key)
        for key in (
            "max_batch_size",
            "max_beam_width",
            "max_input_len",
            "max_output_len",
            "max_multimodal_len",
        )
    }
    config = from_json(step_params.build_llm(variant.facts, "float32", None, 1, limits, None))
    needs = running_memory(
        variant.facts,
        "float32",
        "none",
        config.sequences,
        engine.max_input_len,
        engine.max_output_len,
    )
    slots = config.max_seq_len + config.cross_len
    layer = config.sequences * slots * config.kv_bytes_per_token  # the config is that of one layer
    assert needs.caches == variant.facts.llm.num_hidden_layers * layer


def test_a_7b_model_in_float16_takes_what_its_files_take():
    (variant,) = load_recipes([ROOT / "recipes" / "llava-fp16.yaml"], offline=True).variants
    needs = running_memory(variant.facts, "float16", "none", 1, 1024, 100)
    # The checkpoint of liuhaotian/llava-v1.5-7b: 13.5 GB with its projector; CLIP-L/336 has 304 M parameters.
    assert needs.weights == pytest.approx(13.48e9, rel=0.02)
    assert needs.tower == pytest.approx(304e6 * 2, rel=0.05)
    assert needs.caches == 1124 * 32 * 2 * 4096 * 2
