import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbuild.base.progress import silent
from mmbuild.models.errors import SourceError
from mmbuild.models.families import family, part
from mmbuild.models.families.shared.hugging_face import tensor_shapes
from mmbuild.models.sources import random_weights
from mmbuild.models.sources.config import read_config
from support.models import weights_on_disk as disk

CONFIG: dict[str, Any] = json.loads((disk.DEMO / "config.json").read_text())


def test_transformers_loads_the_model_and_every_weight_is_there(tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    random_weights.write_weights(CONFIG, tensor_shapes(CONFIG), tmp_path, 0, "float16", silent, shard=500_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    model, info = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    weight = model.state_dict()["model.language_model.layers.1.mlp.up_proj.weight"].float()
    assert 0.015 < weight.std() < 0.025
    assert len(torch.unique(weight, dim=0)) == len(weight)


def test_the_seed_makes_the_weights(tmp_path: Path) -> None:
    files = []
    for i, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(i)
        out.mkdir()
        random_weights.write_weights(CONFIG, tensor_shapes(CONFIG), out, seed, "bfloat16", silent)
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_shapes_of_a_real_model_come_without_its_memory() -> None:
    config = read_config("dummy://llava-hf/llava-1.5-7b-hf", None, Path()).config
    shapes = tensor_shapes(config)
    assert shapes["model.language_model.layers.31.mlp.down_proj.weight"] == (4096, 11008)
    assert shapes["lm_head.weight"] == (32064, 4096)


def test_a_tied_head_is_not_written() -> None:
    tied = {**CONFIG, "tie_word_embeddings": True}
    assert "lm_head.weight" not in tensor_shapes(tied)
    assert "lm_head.weight" in tensor_shapes(CONFIG)


def test_the_stand_in_processor_asks_any_text_about_an_image(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    config = read_config("dummy://llava-hf/llava-1.5-7b-hf", None, Path()).config
    facts = family("llava").facts(config)
    part("llava", "processor").write_stand_in(config, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    text = "<image> wie viele Töne? 数"
    batch = processor(text=text, images=Image.new("RGB", (500, 400)), return_tensors="pt")
    ids = batch["input_ids"][0]
    assert (ids == facts.image_token_id).sum() == facts.visual.num_visual_features
    assert batch["pixel_values"].shape == (1, 3, 336, 336)
    assert (
        processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        == text.removeprefix("<image>").strip()
    )
    assert int(ids.max()) < facts.llm.vocab_size
    assert processor.tokenizer.decode([4000, 31999]) == "[4000][31999]"


def test_an_unknown_model_type_is_refused() -> None:
    with pytest.raises(SourceError) as caught:
        tensor_shapes({"model_type": "nobody-knows"})
    assert caught.value.code == "MM440"
