"""Random shapes of both families: grouped-query attention, tied heads, GELU, norms after the sum."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from mmbuild.backends.hf import names
from mmbuild.backends.hf.config_json import config_json
from mmbuild.backends.hf.forms import FORMS, quantization_config
from mmbuild.backends.hf.inputs import measure
from mmbuild.backends.hf.layer import How
from mmbuild.backends.hf.sites import sites
from mmbuild.backends.hf.write import write
from mmbuild.backends.torch.calibration.calibrate import decoder_linears
from support.hf.checkpoints import facts
from support.models import tiny_families, tiny_llava

SEEDS = range(4)
# Largest relative errors of hidden states; a scale in a wrong place or a wrong name costs far more.
BOUNDS = {"int8": 0.06, "int4": 0.7, "int4_awq": 0.7, "smoothquant": 0.12, "fp8": 0.4}


def saved(family, seed, out):
    if family == "llava":
        tiny_llava.save_random_model(out, seed)
    else:
        tiny_families.save_model(family, seed, out)
    return out


def logits(model):
    """Logits of the language model for 24 random tokens."""
    ids = torch.randint(5, 60, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        text = model.language_model if "blip" in model.config.model_type else model
        return text(input_ids=ids).logits.float()


def loaded(directory):
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.compressor.decompress_model(model=model)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", ["llava", "blip2-opt"])
def test_every_form_of_a_random_model_runs_and_is_close_to_the_model(tmp_path, family, seed):
    pytest.importorskip("compressed_tensors")
    (tmp_path / "model").mkdir()
    model = saved(family, seed, tmp_path / "model")
    known, original = facts(family, model), loaded(model)
    expected = logits(original)
    names_of_first = [site.linears[0] for site in sites(known.llm)]
    found = measure(decoder_linears(original, family), partial(logits, original), names_of_first)
    source = json.loads((model / "config.json").read_text())
    errors = {}
    for algorithm, form in FORMS.items():
        out = tmp_path / algorithm
        out.mkdir()
        group = 4 if algorithm == "int4_awq" else None
        calibrated = form.scaling != "none" or form.static_inputs
        how = How(form, group, torch.float32, known.llm)
        write(model, out, family, known.llm, "float32", how, found if calibrated else {})
        section = quantization_config(form, group, names.targets(family, known.llm), names.ignored(family))
        (out / "config.json").write_text(json.dumps(config_json(source, "float32", section)))
        got = logits(loaded(out))
        errors[algorithm] = float((got - expected).norm() / expected.norm())
    assert all(0 < error < BOUNDS[algorithm] for algorithm, error in errors.items()), str(errors)
