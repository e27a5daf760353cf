"""Train the demo model of ``examples/models/llava-shapes`` from scratch and examine it.

    python tools/train_demo.py --out examples/models/llava-shapes

A LLaVA of 1.3 million weights in ordinary Hugging Face layout, trained on pictures of ``shapes_world``. In
the second half of the training every other step sees the decoder's linear layers rounded to int4 the way the
int4 engine rounds them (straight-through gradients), so that the rounding costs little. Seeds are fixed.
About two minutes on a recent GPU. Prints the accuracy of every precision by kind of question, and of two
baselines that do not see the picture, and writes the same table into the model's README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

IMAGE, PATCH, TEXT_LENGTH, SLOTS = 64, 8, 28, 5
FEATURES = (IMAGE // PATCH) ** 2
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
DECODER_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# So that a plain question is enough: `mmbuild run --prompt "how many shapes ?"`.
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<image> ' if part.type == 'image' else 'question: ' + part.text + ' answer:' }}"
    "{% endfor %}{% endfor %}"
)
TRAIN_SEED, EXAM_SEED = 20240611, 77_003


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


def rounded(weight: Tensor, levels: int) -> Tensor:
    """``weight`` [out, in] rounded as the weight-only engine stores it: per output channel,
    scale = absmax / levels, half away from zero, clipped to [-levels, levels - 1]."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / levels
    ratio = weight / scale
    return torch.clamp(torch.sign(ratio) * torch.floor(ratio.abs() + 0.5), -levels, levels - 1) * scale


def decoder_linears(model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers that weight-only quantization rounds."""
    for name, module in model.named_modules():
        if "language_model" in name and name.rsplit(".", 1)[-1] in DECODER_LINEARS:
            yield module


@contextmanager
def straight_through(model: nn.Module, levels: int) -> Iterator[None]:
    """Forward with rounded decoder weights, backward as if they were not."""
    linears = list(decoder_linears(model))
    for linear in linears:
        linear.forward = _rounded_forward(linear, levels)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


def _rounded_forward(linear: nn.Linear, levels: int) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        weight = linear.weight
        return F.linear(x, weight + (rounded(weight, levels) - weight).detach())

    return forward


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
            with straight_through(model, 8):
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
    return _shares(right)


def majority(train_data: Data, exam: Data) -> dict[str, float]:
    """The best answer that knows the question and not the picture: the commonest one in training."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for question in (q for questions in train_data.asked for q in questions):
        seen[question.text][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for question in (q for questions in exam.asked for q in questions):
        right[question.kind].append(seen[question.text].most_common(1)[0][0] == question.answer)
    return _shares(right)


def _shares(right: dict[str, list[bool]]) -> dict[str, float]:
    shares = {kind: 100 * sum(marks) / len(marks) for kind, marks in sorted(right.items())}
    every = [mark for marks in right.values() for mark in marks]
    return {"all": 100 * sum(every) / len(every), **shares}


def exam_data(tokenizer: PreTrainedTokenizerFast) -> Data:
    """500 pictures of another seed, half of them of combinations held out of training."""
    known = make_data(EXAM_SEED, 250, tokenizer, held_out=False)
    new = make_data(EXAM_SEED + 1, 250, tokenizer, held_out=True)
    return Data(
        np.concatenate((known.pictures, new.pictures)), torch.cat((known.ids, new.ids)),
        torch.cat((known.labels, new.labels)), known.asked + new.asked,
    )  # fmt: skip


def exam_table(out: Path, exam: Data, device: str) -> dict[str, dict[str, float]]:
    """Accuracy of the weights on disk, loaded the ordinary way, in every precision."""
    processor = AutoProcessor.from_pretrained(out)
    table = {}
    for name, dtype, levels in (
        ("fp32", torch.float32, None), ("fp16", torch.float16, None),
        ("int8", torch.float16, 128), ("int4", torch.float16, 8),
    ):  # fmt: skip
        model = LlavaForConditionalGeneration.from_pretrained(out, dtype=dtype).to(device).eval()
        for linear in decoder_linears(model) if levels else ():
            linear.weight.data = rounded(linear.weight.data.float(), levels).to(dtype)
        table[name] = examine(model, exam, processor, device, blank=False)
        if name == "fp16":
            table["fp16, picture blanked"] = examine(model, exam, processor, device, blank=True)
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """The table of the README."""
    kinds = ["all", *sorted(world.QUESTIONS)]
    lines = ["| % exact | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[kind]:.1f}" for kind in kinds) + " |")
    return "\n".join(lines)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=256, help="pictures a step, five questions each")
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(TRAIN_SEED)
    torch.set_float32_matmul_precision("high")
    tokenizer = make_tokenizer()
    processor, model = make_processor(tokenizer), make_model(tokenizer).to(args.device)
    data = make_data(TRAIN_SEED + 10_000, args.pictures, tokenizer, held_out=False)
    exam = exam_data(tokenizer)
    print(
        f"{model.num_parameters():,} weights, pictures drawn in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    train(model, data, processor, args)
    model.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    table = exam_table(args.out, exam, args.device)
    table["majority, no picture"] = majority(data, exam)
    print(as_markdown(table))
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    text = README.format(
        parameters=model.num_parameters(), steps=args.steps, batch=args.batch, pictures=args.pictures,
        seconds=time.monotonic() - started, device=device, table=as_markdown(table),
    )  # fmt: skip
    (args.out / "README.md").write_text(text)
    print(json.dumps(table))


if __name__ == "__main__":
    main()
