"""The demo model of VILA, ``examples/models/vila-shapes``: directory layout and arithmetic of VILA-1.5 in small.

No class of transformers holds such a model, so :class:`Vila` is one: a SigLIP tower, 2 x 2 down-sampling with a
two-layer projector, and a LLaMA, each in a directory of its own. Trained on questions about one picture and
about two.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import pairs_world
import shapes_world
from training import drawing, exam, loop, rounding
from training.readme import write_readme
from training.words import word_tokenizer

IMAGE, PATCH, WIDTH = 56, 8, 128
GRID = IMAGE // PATCH
FEATURES = ((GRID + 1) // 2) ** 2
SLOTS, PAIR_SLOTS, LENGTH = 5, len(pairs_world.QUESTIONS), 30
ASKED_SINGLE = 2
"""Training asks this many of a picture's questions a step."""
BEFORE_PICTURE = 3
"""Tokens of a prompt before its first picture: ``<s> user :``."""
PROMPT = "user : {} assistant :"  # what the tokenizer makes of `USER: <image> ... ASSISTANT:`
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TRAIN_SEED, EXAM_SEED = 20240613, 78_003
DEFAULTS = {"steps": 12_000, "minutes": 600.0, "batch": 96, "pictures": 120_000, "lr": 1.2e-3}
TOWER_PREFIX = "vision_tower.vision_model."
EXAMINED = (("fp32", None), ("fp16", None), ("bf16", None), ("fp16", "int8"), ("fp16", "int4"))
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Projector(nn.Module):
    """VILA's ``mlp_downsample``; ``layers`` carry its numbers, 0 being the down-sampling."""

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {"1": nn.LayerNorm(4 * seen), "2": nn.Linear(4 * seen, width), "4": nn.Linear(width, width)}
        )

    def forward(self, patches: Tensor) -> Tensor:
        """[n, grid * grid, seen] to [n, ceil(grid / 2) ** 2, width]."""
        one, two, four = (self.layers[number] for number in ("1", "2", "4"))
        return four(F.gelu(two(one(downsampled(patches)))))


class Vila(nn.Module):
    """The three parts."""

    def __init__(self, tower: SiglipVisionModel, llm: LlamaForCausalLM, projector: Projector) -> None:
        super().__init__()
        self.vision_tower, self.llm, self.mm_projector = tower, llm, projector

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, 56, 56] to [n, 16, 128]: patches as they are before the tower's last layer, projected."""
        hidden = self.vision_tower.embeddings(images)
        for layer in self.vision_tower.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return self.mm_projector(hidden)


@dataclass(frozen=True, slots=True)
class Questions:
    """``ids`` and ``labels`` int64 [n, slots, length] of texts without pictures, and the questions."""

    ids: Tensor
    labels: Tensor
    asked: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Data:
    """Pictures uint8 [n, 2, 56, 56, 3]; questions about each alone (2 n rows) and about both (n rows)."""

    pictures: Tensor
    single: Questions
    both: Questions


def downsampled(patches: Tensor) -> Tensor:
    """Blocks of 2 x 2 patches, joined on channels: [n, grid * grid, c] to [n, ceil(grid / 2) ** 2, 4 c].

    An odd grid gets a row and a column of zeros. As VILA's code works, blocks are listed column by column, and
    the channels of a block are ordered (row, column, c) within it.
    """
    n, count, channels = patches.shape
    grid = round(count**0.5)
    odd = grid % 2
    padded = F.pad(patches.view(n, grid, grid, channels), (0, 0, 0, odd, 0, odd))
    half = (grid + odd) // 2
    blocks = padded.view(n, half, 2, half, 2, channels).permute(0, 3, 1, 2, 4, 5)
    return blocks.reshape(n, half * half, 4 * channels)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer; ``<image>`` is no token."""
    words = {*shapes_world.words(), *pairs_world.words(), "user", "assistant"}
    return word_tokenizer((*SPECIAL.values(), *sorted(words)), "<s> $A", SPECIAL, padding_side="left")


def make_image_processor() -> SiglipImageProcessorPil:
    """56 x 56 pixels, -1 to 1."""
    return SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})


def make_model(tokenizer: PreTrainedTokenizerFast) -> Vila:
    """The model, with fresh weights from the seed in force."""
    vision = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4, image_size=IMAGE,
        patch_size=PATCH, architectures=["SiglipVisionModel"],
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 32) * 32, hidden_size=WIDTH, intermediate_size=256,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        initializer_range=0.05, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    return Vila(SiglipVisionModel(vision), LlamaForCausalLM(text), Projector(WIDTH, WIDTH))


def make_data(seed: int, count: int, tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> Data:
    """``count`` pairs of pictures drawn from ``seed``, with all questions."""
    parts = drawing.drawn(drawing.draw_pairs, seed, count, held_out, IMAGE)
    single = [questions for _, part, _ in parts for questions in part]
    both = [questions for _, _, part in parts for questions in part]
    number = tokenizer.get_vocab()

    def encoded(asked: list[list[Any]], slots: int) -> Questions:
        texts = [
            [(PROMPT.format(q.text), q.answer) for q in drawing.counting_twice(questions, slots)]
            for questions in asked
        ]
        return Questions(*drawing.causal_rows(texts, number, begin="<s>", length=LENGTH), asked)

    pictures = torch.from_numpy(np.concatenate([pictures for pictures, _, _ in parts]))
    return Data(pictures, encoded(single, SLOTS), encoded(both, PAIR_SLOTS))


def exam_data(tokenizer: PreTrainedTokenizerFast) -> Data:
    """500 pairs of pictures of another seed, half of them of combinations held out of training; only the first
    picture of each is asked about alone."""
    parts = [
        make_data(EXAM_SEED + held_out, 250, tokenizer, held_out=bool(held_out)) for held_out in (False, True)
    ]
    single, both = (
        Questions(
            torch.cat([getattr(part, name).ids[::every] for part in parts]),
            torch.cat([getattr(part, name).labels[::every] for part in parts]),
            [questions for part in parts for questions in getattr(part, name).asked[::every]],
        )
        for name, every in (("single", 2), ("both", 1))
    )
    return Data(torch.cat([part.pictures for part in parts]), single, both)


def answer_logits(model: Vila, features: Tensor, ids: Tensor) -> Tensor:
    """Logits [n, slots, length, vocabulary] over the text of every question.

    ``features`` [n, places, 128] of all pictures of a row, one after the other, come after the third token.
    """
    n, slots, length = ids.shape
    text = model.llm.model.embed_tokens(ids.flatten(0, 1))
    seen = features.repeat_interleave(slots, dim=0)
    rows = torch.cat(
        (text[:, :BEFORE_PICTURE].to(seen.dtype), seen, text[:, BEFORE_PICTURE:].to(seen.dtype)), 1
    )
    hidden = model.llm.model(
        inputs_embeds=rows, attention_mask=loop.causal_mask(rows), use_cache=False
    ).last_hidden_state
    hidden = torch.cat((hidden[:, :BEFORE_PICTURE], hidden[:, BEFORE_PICTURE + seen.shape[1] :]), dim=1)
    return model.llm.lm_head(hidden).view(n, slots, length, -1)


def fit(
    model: Vila, data: Data, pixels: Callable[[Tensor], Tensor], args: Namespace, watch: Callable[[], str]
) -> int:
    """Train on both kinds of question at once. Returns the steps made."""
    pictures, *texts = (
        t.to(args.device)
        for t in (data.pictures, data.single.ids, data.single.labels, data.both.ids, data.both.labels)
    )
    single_ids, single_labels, both_ids, both_labels = texts

    def plain(pick: Tensor) -> Tensor:
        features = model.features(pixels(pictures[pick].flatten(0, 1)))
        alone = torch.stack((2 * pick, 2 * pick + 1), dim=1).flatten()
        # Some of the questions a step: pairs are the harder half.
        slots = torch.rand(SLOTS, device=pick.device).argsort()[:ASKED_SINGLE]
        wanted, wanted_both = single_labels[alone][:, slots], both_labels[pick]
        one = loop.answer_loss(answer_logits(model, features, single_ids[alone][:, slots]), wanted)
        side_by_side = features.view(len(pick), 2 * FEATURES, -1)
        return one + loop.answer_loss(answer_logits(model, side_by_side, both_ids[pick]), wanted_both)

    def rounded(pick: Tensor) -> Tensor:
        with rounding.straight_through(rounding.decoder_linears(model, "llm"), rounding.LEVELS["int4"]):
            return plain(pick)

    phases = tuple(
        loop.Phase(0.5, losses, len(pictures), args.batch) for losses in ((plain,), (plain, rounded))
    )
    return loop.train(
        model, phases, loop.Budget(args.steps, args.minutes), lr=args.lr, seed=TRAIN_SEED, watch=watch
    )


def examine(
    model: Vila, data: Data, pixels: Callable[[Tensor], Tensor], *, blank: bool = False
) -> exam.Shares:
    """Share of questions answered exactly: ``one picture``, ``two pictures``, then by kind."""
    weight = model.llm.lm_head.weight

    def seen(rows: slice, pictures: int) -> Tensor:
        shown = data.pictures[rows, :pictures].to(weight.device)
        images = pixels(shown.flatten(0, 1)).to(weight.dtype)
        return model.features(images * 0 if blank else images).view(len(shown), pictures * FEATURES, -1)

    def marks(questions: Questions, pictures: int) -> exam.Shares:
        def logits(rows: slice) -> tuple[Tensor, Tensor]:
            ids = questions.ids[rows].to(weight.device)
            return answer_logits(model, seen(rows, pictures), ids), questions.labels[rows].to(weight.device)

        return exam.mark(logits, questions.asked)

    one, two = marks(data.single, 1), marks(data.both, 2)
    return together(one, two)


def together(one: exam.Shares, two: exam.Shares) -> exam.Shares:
    """Shares of questions about one picture and about two, as one row of the table."""
    rest = {kind: share for row in (one, two) for kind, share in row.items() if kind != "all"}
    return {"one picture": one["all"], "two pictures": two["all"], **rest}


def save(model: Vila, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The directory: top config, ``llm``, ``vision_tower``, ``mm_projector``; weights in float16."""
    model = model.half()
    model.llm.save_pretrained(out / "llm")
    tokenizer.save_pretrained(out / "llm")
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(out / "llm")  # fmt: skip
    _save_tensors(model.vision_tower.state_dict(), out / "vision_tower", TOWER_PREFIX)
    make_image_processor().save_pretrained(out / "vision_tower")
    _save_tensors(model.mm_projector.state_dict(), out / "mm_projector", "")
    vision, text = model.vision_tower.config.to_dict(), model.llm.config.to_dict()
    projector = {
        "architectures": ["MultimodalProjector"],
        "mm_projector_type": "mlp_downsample",
        "model_type": "v2l_projector",
    }
    for part, config in (("vision_tower", vision), ("mm_projector", projector)):
        _write_json(out / part / "config.json", config | {"dtype": "float16"})
    _write_json(out / "config.json", {
        "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "model_dtype": "torch.float16",
        "hidden_size": WIDTH, "mm_hidden_size": WIDTH, "image_aspect_ratio": "resize", "interpolate_mode": "linear",
        "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2, "num_video_frames": 8, "resume_path": "./vlm", "s2": False,
        "vision_resolution": -1, "llm_cfg": text, "vision_tower_cfg": vision, "mm_projector_cfg": projector,
    })  # fmt: skip


def load(out: Path, precision: str, levels: str | None, device: str) -> Vila:
    """The model on disk, in a precision of the README's table."""
    vision = SiglipVisionConfig.from_pretrained(out / "vision_tower")
    tower = SiglipVisionModel(vision)
    tensors = load_file(out / "vision_tower" / "model.safetensors")
    tower.load_state_dict({name.removeprefix(TOWER_PREFIX): tensor for name, tensor in tensors.items()})
    llm = LlamaForCausalLM.from_pretrained(out / "llm", dtype=torch.float32)
    projector = Projector(vision.hidden_size, llm.config.hidden_size)
    projector.load_state_dict(load_file(out / "mm_projector" / "model.safetensors"))
    model = Vila(tower, llm, projector).to(device, DTYPES[precision]).eval()
    if levels:
        rounding.round_in_place(rounding.decoder_linears(model, "llm"), rounding.LEVELS[levels])
    return model


def exam_table(out: Path, data: Data, device: str) -> exam.Table:
    """Accuracy of the weights on disk in every precision."""
    pixels = drawing.normalizer(make_image_processor(), device)
    table = {}
    for precision, levels in EXAMINED:
        model = load(out, precision, levels, device)
        table[levels or precision] = examine(model, data, pixels)
        if (precision, levels) == ("fp16", None):
            table["fp16, picture blanked"] = examine(model, data, pixels, blank=True)
    return table


def main(args: Namespace) -> None:
    """Train, save, examine, write the README."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).to(args.device)
    data = make_data(TRAIN_SEED + 10_000, args.pictures, tokenizer, held_out=False)
    test = exam_data(tokenizer)
    pixels = drawing.normalizer(make_image_processor(), args.device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} weights, pictures drawn", flush=True)

    def watch() -> str:
        marks = examine(model, test, pixels)
        return f"exam {marks['one picture']:.1f} % and {marks['two pictures']:.1f} %"

    steps = fit(model, data, pixels, args, watch)
    save(model, tokenizer, args.out)
    table = exam_table(args.out, test, args.device)
    table["majority, no picture"] = together(
        exam.majority(data.single.asked, test.single.asked), exam.majority(data.both.asked, test.both.asked)
    )
    write_readme(args, parameters, steps, exam.as_markdown(table))


def _save_tensors(tensors: dict[str, Tensor], folder: Path, prefix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = {prefix + name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
