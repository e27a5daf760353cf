"""The demo model of LLaVA, ``examples/models/llava-shapes``: 1.3 million weights.

In the second half of the training every other step sees the decoder's linear layers rounded to int4 the way
the int4 engine rounds them (straight-through gradients), so that the rounding costs little. About two minutes
on a recent GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from argparse import Namespace
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import shapes_world as world
from training import exam
from training.rounding import decoder_linears, round_in_place, straight_through

IMAGE, PATCH, TEXT_LENGTH, SLOTS = 64, 8, 28, 5
FEATURES = (IMAGE // PATCH) ** 2
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# So that a plain question is enough: `mmbuild run --prompt "how many shapes ?"`.
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<image> ' if part.type == 'image' else 'question: ' + part.text + ' answer:' }}"
    "{% endfor %}{% endfor %}"
)
TRAIN_SEED, EXAM_SEED = 20240611, 77_003
DEFAULTS = {"steps": 4500, "batch": 256, "pictures": 200_000, "lr": 1.5e-3}


@dataclass(frozen=True, slots=True)
class Data:
    """Pictures with questions. ``pictures`` uint8 [n, 64, 64, 3]; ``ids`` and ``labels`` int64 [n, 5, length]
    of the text (beginning-of-sequence first, the image left out), label -100 where nothing is to be answered;
    ``asked`` holds the question of each slot."""

    pictures: np.ndarray
    ids: Tensor
    labels: Tensor
    asked: list[list[world.Question]]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer: lower case, words and marks."""
    vocabulary = [*SPECIAL.values(), "<image>", *world.words()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=["<image>"], padding_side="left", **SPECIAL
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """CLIP preprocessing to 64 x 64 pixels, 64 image tokens for a picture."""
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE})
    return LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The model, with fresh weights from the seed in force."""
    vocabulary = -(-len(tokenizer) // 32) * 32
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=5, num_attention_heads=4,
        image_size=IMAGE, patch_size=PATCH, projection_dim=128,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_seq_length=FEATURES,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _draw(job: tuple[int, int, bool]) -> tuple[np.ndarray, list[list[world.Question]]]:
    seed, count, held_out = job
    rng = np.random.default_rng(seed)
    pictures = np.empty((count, IMAGE, IMAGE, 3), np.uint8)
    asked = []
    for i in range(count):
        scene = world.draw_scene(rng, held_out=held_out)
        picture = world.draw_picture(scene, rng)
        pictures[i] = np.asarray(picture.resize((IMAGE, IMAGE), Image.Resampling.BICUBIC))
        asked.append(list(world.questions(scene, rng)))
    return pictures, asked


def make_data(seed: int, count: int, tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> Data:
    """``count`` pictures drawn from ``seed``; the same whatever the number of processes."""
    size = 500
    jobs = [(seed + i, min(size, count - i * size), held_out) for i in range(-(-count // size))]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        parts = pool.map(_draw, jobs)
    asked = [questions for _, part in parts for questions in part]
    ids, labels = _encode(asked, tokenizer)
    return Data(np.concatenate([pictures for pictures, _ in parts]), ids, labels, asked)


def _encode(asked: list[list[world.Question]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    number = tokenizer.get_vocab()
    ids = np.full((len(asked), SLOTS, TEXT_LENGTH), tokenizer.pad_token_id, np.int64)
    labels = np.full_like(ids, -100)
    for i, questions in enumerate(asked):
        # Scenes without a `where` question are asked to count twice: counting is the hardest.
        extra = [q for q in questions if q.kind == "count"] if len(questions) < SLOTS else []
        for slot, question in enumerate((*questions, *extra)):
            prompt = ["<s>", *f"question : {question.text} answer :".split()]
            answer = [*question.answer.split(), "</s>"]
            row = [number[word] for word in (*prompt, *answer)]
            ids[i, slot, : len(row)] = row
            labels[i, slot, len(prompt) : len(row)] = row[len(prompt) :]
    return torch.from_numpy(ids), torch.from_numpy(labels)


def pixels(pictures: np.ndarray | Tensor, processor: LlavaProcessor, device: str) -> Tensor:
    """Normalized float32 [n, 3, 64, 64] of uint8 [n, 64, 64, 3], as the processor would make them."""
    mean, std = (
        torch.tensor(v, device=device).view(1, 3, 1, 1)
        for v in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    batch = torch.as_tensor(pictures).to(device).permute(0, 3, 1, 2).float() / 255
    return (batch - mean) / std


def answer_logits(model: LlavaForConditionalGeneration, images: Tensor, ids: Tensor) -> Tensor:
    """Logits [n, slots, length, vocabulary] over the text of every question; a picture is encoded once."""
    n, slots, length = ids.shape
    features = model.model.get_image_features(
        pixel_values=images, vision_feature_layer=-2, vision_feature_select_strategy="default"
    ).pooler_output
    features = torch.stack(list(features)).repeat_interleave(slots, dim=0)
    text = model.get_input_embeddings()(ids.flatten(0, 1))
    embeddings = torch.cat((text[:, :1], features, text[:, 1:]), dim=1)
    hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    hidden = torch.cat((hidden[:, :1], hidden[:, FEATURES + 1 :]), dim=1)
    return model.lm_head(hidden).view(n, slots, length, -1)


def train(model: LlavaForConditionalGeneration, data: Data, processor: LlavaProcessor, args: Any) -> None:
    """AdamW, warm-up and cosine; int4 rounding every other step of the second half."""
    device = args.device
    pictures, ids, labels = (t.to(device) for t in (torch.from_numpy(data.pictures), data.ids, data.labels))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98), fused=device == "cuda"
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.06, final_div_factor=1e3
    )
    generator = torch.Generator().manual_seed(TRAIN_SEED)
    started = time.monotonic()
    for step in range(args.steps):
        pick = torch.randint(len(pictures), (args.batch,), generator=generator).to(device)
        images = pixels(pictures[pick], processor, device)
        if step >= args.steps // 2 and step % 2:
            with straight_through(decoder_linears(model), 8):
                loss = _loss(model, images, ids[pick], labels[pick])
        else:
            loss = _loss(model, images, ids[pick], labels[pick])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == args.steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


def _loss(model: LlavaForConditionalGeneration, images: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    logits = answer_logits(model, images, ids)[:, :, :-1]
    return F.cross_entropy(logits.flatten(0, 2).float(), labels[:, :, 1:].flatten(), ignore_index=-100)


@torch.no_grad()
def examine(
    model: LlavaForConditionalGeneration, data: Data, processor: LlavaProcessor, device: str, *, blank: bool
) -> dict[str, float]:
    """Share of questions answered exactly, by kind and over all.

    Teacher forcing: greedy decoding gives exactly the right answer if and only if every token of the answer,
    the end included, is the most likely one after the right tokens before it.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(data.pictures), 100):
        rows = slice(start, start + 100)
        images = pixels(data.pictures[rows], processor, device).to(model.dtype)
        ids, labels = data.ids[rows].to(device), data.labels[rows].to(device)[:, :, 1:]
        best = answer_logits(model, images * 0 if blank else images, ids)[:, :, :-1].argmax(-1)
        exact = ((best == labels) | (labels == -100)).all(-1).cpu()
        for picture, questions in zip(exact, data.asked[rows], strict=True):
            for slot, question in enumerate(questions):
                right[question.kind].append(bool(picture[slot]))
    return exam.shares(right)


def exam_data(tokenizer: PreTrainedTokenizerFast) -> Data:
    """500 pictures of another seed, half of them of combinations held out of training."""
    known = make_data(EXAM_SEED, 250, tokenizer, held_out=False)
    new = make_data(EXAM_SEED + 1, 250, tokenizer, held_out=True)
    return Data(
        np.concatenate((known.pictures, new.pictures)), torch.cat((known.ids, new.ids)),
        torch.cat((known.labels, new.labels)), known.asked + new.asked,
    )  # fmt: skip


def exam_table(out: Path, test: Data, device: str) -> dict[str, dict[str, float]]:
    """Accuracy of the weights on disk, loaded the ordinary way, in every precision."""
    processor = AutoProcessor.from_pretrained(out)
    table = {}
    for name, dtype, levels in (
        ("fp32", torch.float32, None), ("fp16", torch.float16, None),
        ("int8", torch.float16, 128), ("int4", torch.float16, 8),
    ):  # fmt: skip
        model = LlavaForConditionalGeneration.from_pretrained(out, dtype=dtype).to(device).eval()
        if levels:
            round_in_place(decoder_linears(model), levels)
        table[name] = examine(model, test, processor, device, blank=False)
        if name == "fp16":
            table["fp16, picture blanked"] = examine(model, test, processor, device, blank=True)
    return table


README = """# llava-shapes

A LLaVA of {parameters:,} weights (float16) that answers questions about pictures of coloured shapes: which
shape, what colour, how many (1 to 5), where (9 places, single objects) and a sentence that describes the
picture. Prompt: `<image> question: how many shapes ? answer:`, or the bare question through the chat template.
It knows the words of its small world only; `tools/shapes_world.py` lists the wordings it was trained on.

Made by `python tools/train_demo.py --out examples/models/llava-shapes` ({steps} steps of {batch} pictures,
{pictures:,} pictures, fixed seeds, {seconds:.0f} s on {device}; other devices give other last digits). In
the second half of the training every other step rounds the decoder's linear layers to int4 (absmax/8 per
output channel, straight-through gradients), which is why int4 costs so little here. About one in nine
combinations of shape, colour and count (of shape, colour and place for single objects) is held out of
training; half of the 500 exam pictures show only such combinations. An answer counts when every token of it
is right.

{table}

`majority` gives each question its commonest answer in training; `picture blanked` is the fp16 model shown
grey. int8 and int4 round the decoder's linear layers with TensorRT-LLM's weight-only arithmetic.
"""


def main(args: Namespace) -> None:
    """Train, save, examine, write the README."""
    tokenizer = make_tokenizer()
    processor, model = make_processor(tokenizer), make_model(tokenizer).to(args.device)
    data = make_data(TRAIN_SEED + 10_000, args.pictures, tokenizer, held_out=False)
    test = exam_data(tokenizer)
    print(f"{model.num_parameters():,} weights, pictures drawn", flush=True)
    train(model, data, processor, args)
    model.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    table = exam_table(args.out, test, args.device)
    table["majority, no picture"] = exam.majority(data.asked, test.asked)
    print(exam.as_markdown(table))
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    text = README.format(
        parameters=model.num_parameters(), steps=args.steps, batch=args.batch, pictures=args.pictures,
        seconds=time.monotonic() - args.started, device=device, table=exam.as_markdown(table),
    )  # fmt: skip
    (args.out / "README.md").write_text(text)
    print(json.dumps(table))
