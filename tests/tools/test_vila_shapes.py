"""The shipped VILA, put together here from transformers' SigLIP and LLaMA: what the engine is measured against."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import demo_worlds
from training import drawing, vila

DEMO = Path(demo_worlds.__file__).parents[1] / "examples" / "models" / "vila-shapes"
QUESTIONS, WANTED = 40, 38


def tower() -> SiglipVisionModel:
    """The tower of the directory; its names are those of VILA's own files."""
    model = SiglipVisionModel(SiglipVisionConfig.from_pretrained(DEMO / "vision_tower"))
    tensors = load_file(DEMO / "vision_tower" / "model.safetensors")
    prefix = "vision_tower.vision_model."
    assert all(name.startswith(prefix) for name in tensors)
    model.load_state_dict({name[len(prefix) :]: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def blocks_of_four(patches: torch.Tensor) -> torch.Tensor:
    """[n, 49, c] to [n, 16, 4 c], place by place: blocks column by column, zeros beyond the edge."""
    n, _, c = patches.shape
    grid = torch.zeros(n, 8, 8, c)
    grid[:, :7, :7] = patches.view(n, 7, 7, c)
    found = [
        torch.cat([grid[:, 2 * i + di, 2 * j + dj] for di in (0, 1) for dj in (0, 1)], dim=-1)
        for j in range(4)
        for i in range(4)
    ]
    return torch.stack(found, dim=1)


def project(patches: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    rows = blocks_of_four(patches)
    rows = F.layer_norm(rows, rows.shape[-1:], weights["layers.1.weight"], weights["layers.1.bias"])
    rows = F.gelu(F.linear(rows, weights["layers.2.weight"], weights["layers.2.bias"]))
    return F.linear(rows, weights["layers.4.weight"], weights["layers.4.bias"])


@pytest.mark.slow
def test_it_answers_about_one_and_two_pictures_it_was_never_trained_on() -> None:
    vision, images = tower(), SiglipImageProcessorPil.from_pretrained(DEMO / "vision_tower")
    weights = {name: t.float() for name, t in load_file(DEMO / "mm_projector" / "model.safetensors").items()}
    llm = LlamaForCausalLM.from_pretrained(DEMO / "llm", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "llm")
    right = {1: 0, 2: 0}
    for requested in demo_worlds.ask("vila", 990_021, 2 * QUESTIONS, held_out=True):
        shown = images(list(requested.pictures), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = project(vision(shown, output_hidden_states=True).hidden_states[-2], weights)
            before, *between, after = requested.prompt.split("<image>")
            assert not "".join(between).strip()
            embed = llm.get_input_embeddings()
            text = [tokenizer(part, return_tensors="pt")["input_ids"][0] for part in (before, after)]
            rows = torch.cat((embed(text[0]), features.flatten(0, 1), embed(text[1][1:])))[None]
            ids = llm.generate(
                inputs_embeds=rows,
                attention_mask=torch.ones(rows.shape[:2]),
                max_new_tokens=14,
                do_sample=False,
            )[0]
        assert ids[-1] == tokenizer.eos_token_id
        right[len(requested.pictures)] += tokenizer.decode(ids, skip_special_tokens=True) == requested.answer
    assert min(right.values()) >= WANTED


@pytest.mark.extended  # 6 s each, of the shipped files alone
@pytest.mark.parametrize("levels", [None, "int4"])
def test_it_answers_in_the_precisions_of_its_engines(levels: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "llm")
    exam = vila.make_data(990_022, 20, tokenizer, held_out=True)
    pixels = drawing.normalizer(vila.make_image_processor(), "cpu")
    single = vila.Questions(exam.single.ids[::2], exam.single.labels[::2], exam.single.asked[::2])
    exam = vila.Data(exam.pictures, single, exam.both)
    model = vila.load(DEMO, "fp16", levels, "cpu")
    shares = vila.examine(model, exam, pixels)
    assert min(shares["one picture"], shares["two pictures"]) >= 93
    assert vila.examine(model, exam, pixels, blank=True)["one picture"] <= 35


@pytest.mark.parametrize("grid", [2, 5, 8])
def test_down_sampling_lists_blocks_column_by_column(grid: int) -> None:
    patches = torch.arange(grid * grid * 2).float().view(1, grid * grid, 2) + 1
    found = vila.downsampled(patches)[0]
    half = (grid + 1) // 2
    assert found.shape == (half * half, 8)
    for place, block in enumerate(found):
        column, row = divmod(place, half)
        for corner, (di, dj) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            y, x = 2 * row + di, 2 * column + dj
            inside = y < grid and x < grid
            required = patches[0, y * grid + x] if inside else torch.zeros(2)
            assert torch.equal(block[2 * corner : 2 * corner + 2], required)


def test_the_model_that_was_trained_sees_what_the_parts_see() -> None:
    shown = torch.randn(2, 3, vila.IMAGE, vila.IMAGE)
    weights = {name: t.float() for name, t in load_file(DEMO / "mm_projector" / "model.safetensors").items()}
    with torch.no_grad():
        required = project(tower()(shown, output_hidden_states=True).hidden_states[-2], weights)
        assert torch.allclose(vila.load(DEMO, "fp32", None, "cpu").features(shown), required, atol=1e-5)


def test_the_directory_is_laid_out_as_vila_1_5() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llava_llama", ["LlavaLlamaModel"])
    assert config["mm_projector_cfg"]["mm_projector_type"] == "mlp_downsample"
    assert config["llm_cfg"]["hidden_size"] == config["hidden_size"]
    assert config["vision_tower_cfg"]["hidden_size"] == config["mm_hidden_size"]
    for part in ("llm", "vision_tower", "mm_projector"):
        assert (DEMO / part / "config.json").is_file()
        assert (DEMO / part / "model.safetensors").is_file()


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 4_000_000
