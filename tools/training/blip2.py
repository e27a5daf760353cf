"""The demo models of BLIP-2, over OPT and over T5: ``examples/models/blip2-opt-shapes`` and ``blip2-t5-shapes``.

Ordinary ``Blip2ForConditionalGeneration`` in small. The OPT model sees its decoder's linear layers rounded to
int4 every other step of the second half (straight-through gradients); the T5 model is for 16-bit engines only.
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
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

import shapes_world
from training import drawing, exam, loop, rounding
from training.readme import write_readme
from training.words import word_tokenizer

IMAGE, PATCH, QUERIES, WIDTH, SLOTS = 64, 8, 16, 128, 5
TEXT_LENGTH, QUESTION_LENGTH, ANSWER_LENGTH = 28, 16, 12
PROMPT = "question : {} answer :"  # what the tokenizer makes of `Question: ... Answer:`
TRAIN_SEED, EXAM_SEED = 20240611, 77_003
DEFAULTS = {"steps": 12_000, "minutes": 600.0, "batch": 192, "pictures": 200_000, "lr": 1.2e-3}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Form:
    """What differs between the two models.

    Attributes:
        special: Special tokens; the place of each is its id.
        names: What they are for.
        template: How the tokenizer frames a text.
        examined: Precisions of the README's table: a dtype, or a dtype and the rounding of the decoder.
        rounds: Whether training rounds the decoder's linear layers.
    """

    special: tuple[str, ...]
    names: dict[str, str]
    template: str
    examined: tuple[tuple[str, str | None], ...]
    rounds: bool


FORMS = {
    "blip2-opt": Form(
        ("<s>", "<pad>", "</s>", "<unk>", "<image>"),
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "</s> $A",
        (("fp32", None), ("fp16", None), ("bf16", None), ("fp16", "int8"), ("fp16", "int4")),
        rounds=True,
    ),
    "blip2-t5": Form(
        ("<pad>", "</s>", "<unk>", "<image>"),
        {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "$A </s>",
        (("fp32", None), ("fp16", None), ("bf16", None)),
        rounds=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Data:
    """Pictures uint8 [n, 64, 64, 3]; ``ids`` and ``labels`` int64 [n, 5, length]; the questions."""

    pictures: Tensor
    ids: Tensor
    labels: Tensor
    asked: list[list[shapes_world.Question]]


def make_processor(family: str) -> Blip2Processor:
    """64 x 64 pixels; 16 image tokens before the text of a picture."""
    form = FORMS[family]
    tokenizer = word_tokenizer(
        (*form.special, *shapes_world.words()), form.template, form.names,
        additional_special_tokens=["<image>"], padding_side="left",
    )  # fmt: skip
    images = BlipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})
    return Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def make_model(family: str, tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """The model, with fresh weights from the seed in force."""
    vision = Blip2VisionConfig(
        hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=IMAGE,
        patch_size=PATCH, initializer_range=0.04,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, cross_attention_frequency=2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, max_position_embeddings=QUERIES, initializer_range=0.04,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    text = _opt(tokenizer) if family == "blip2-opt" else _t5(tokenizer)
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), initializer_range=0.04,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    # transformers starts all query tokens at zero: equal, they would stay equal.
    nn.init.normal_(model.query_tokens, std=0.5)
    if family == "blip2-t5":
        untied = torch.empty_like(model.language_model.lm_head.weight)
        model.language_model.lm_head.weight = nn.Parameter(nn.init.normal_(untied, std=WIDTH**-0.5))
    return model


def _opt(tokenizer: PreTrainedTokenizerFast) -> OPTConfig:
    return OPTConfig(
        vocab_size=_rows(tokenizer), hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=256,
        num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=128, dropout=0.0,
        activation_function="relu", do_layer_norm_before=True, init_std=0.04,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def _t5(tokenizer: PreTrainedTokenizerFast) -> T5Config:
    return T5Config(
        vocab_size=_rows(tokenizer), d_model=WIDTH, d_kv=32, num_heads=4, d_ff=224, num_layers=2,
        num_decoder_layers=2, feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _rows(tokenizer: PreTrainedTokenizerFast) -> int:
    return -(-len(tokenizer) // 32) * 32


def make_data(
    family: str, seed: int, count: int, tokenizer: PreTrainedTokenizerFast, *, held_out: bool
) -> Data:
    """``count`` pictures drawn from ``seed``, five questions each."""
    parts = drawing.drawn(drawing.draw_scenes, seed, count, held_out, IMAGE)
    asked = [questions for _, part in parts for questions in part]
    texts = [
        [(PROMPT.format(q.text), q.answer) for q in drawing.counting_twice(questions, SLOTS)]
        for questions in asked
    ]
    number = tokenizer.get_vocab()
    if family == "blip2-opt":
        rows = drawing.causal_rows(texts, number, begin="</s>", length=TEXT_LENGTH)
    else:
        rows = drawing.encoder_rows(texts, number, length=QUESTION_LENGTH, answer_length=ANSWER_LENGTH)
    return Data(torch.from_numpy(np.concatenate([pictures for pictures, _ in parts])), *rows, asked)


def exam_data(family: str, tokenizer: PreTrainedTokenizerFast) -> Data:
    """500 pictures of another seed, half of them of combinations held out of training."""
    known = make_data(family, EXAM_SEED, 250, tokenizer, held_out=False)
    new = make_data(family, EXAM_SEED + 1, 250, tokenizer, held_out=True)
    joined = (torch.cat((getattr(known, name), getattr(new, name))) for name in ("pictures", "ids", "labels"))
    return Data(*joined, known.asked + new.asked)


def picture_features(model: Blip2ForConditionalGeneration, images: Tensor) -> Tensor:
    """What the language model sees of ``images`` [n, 3, 64, 64]: [n, 16, 128], in the dtype of its weights."""
    seen = model.vision_model(pixel_values=images).last_hidden_state
    queries = model.query_tokens.expand(len(images), -1, -1)
    asked = model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    return model.language_projection(asked.to(seen.dtype))


def answer_logits(
    model: Blip2ForConditionalGeneration, images: Tensor, ids: Tensor, labels: Tensor
) -> Tensor:
    """Logits [n, slots, length, vocabulary] for ``labels``; a picture is encoded once for all its slots."""
    n, slots, _ = ids.shape
    features = picture_features(model, images).repeat_interleave(slots, dim=0)
    language, flat = model.language_model, ids.flatten(0, 1)
    rows = torch.cat((features, model.get_input_embeddings()(flat).to(features.dtype)), dim=1)
    if not model.config.text_config.is_encoder_decoder:
        places = torch.arange(rows.shape[1], device=rows.device)[None].expand(len(rows), -1)
        hidden = language.model.decoder(
            inputs_embeds=rows, attention_mask=loop.causal_mask(rows), position_ids=places, use_cache=False
        ).last_hidden_state[:, features.shape[1] :]
        return language.lm_head(hidden).view(n, slots, *hidden.shape[1:2], -1)
    present = torch.cat((flat.new_ones(features.shape[:2]), flat != model.config.text_config.pad_token_id), 1)
    told = torch.where(labels < 0, model.config.text_config.pad_token_id, labels).flatten(0, 1)
    before = torch.cat(
        (torch.full_like(told[:, :1], language.config.decoder_start_token_id), told[:, :-1]), 1
    )
    before = language.shared(before)
    logits = language(
        inputs_embeds=rows, attention_mask=loop.padding_mask(present.bool(), rows.dtype),
        decoder_inputs_embeds=before, decoder_attention_mask=loop.causal_mask(before), use_cache=False,
    ).logits  # fmt: skip
    return logits.view(n, slots, *logits.shape[1:])


def examine(
    model: Blip2ForConditionalGeneration,
    data: Data,
    pixels: Callable[[Tensor], Tensor],
    *,
    blank: bool = False,
) -> exam.Shares:
    """Share of questions answered exactly, by kind and over all."""
    device, dtype = model.device, model.dtype

    def logits(rows: slice) -> tuple[Tensor, Tensor]:
        images = pixels(data.pictures[rows].to(device)).to(dtype)
        labels = data.labels[rows].to(device)
        return answer_logits(
            model, images * 0 if blank else images, data.ids[rows].to(device), labels
        ), labels

    return exam.mark(logits, data.asked)


def fit(
    model: Blip2ForConditionalGeneration, data: Data, pixels: Callable[[Tensor], Tensor],
    args: Namespace, watch: Callable[[], str],
) -> int:  # fmt: skip
    """Train; see the module. Returns the steps made."""
    pictures, ids, labels = (t.to(args.device) for t in (data.pictures, data.ids, data.labels))

    def plain(pick: Tensor) -> Tensor:
        wanted = labels[pick]
        return loop.answer_loss(answer_logits(model, pixels(pictures[pick]), ids[pick], wanted), wanted)

    def rounded(pick: Tensor) -> Tensor:
        with rounding.straight_through(rounding.decoder_linears(model), rounding.LEVELS["int4"]):
            return plain(pick)

    second = (plain, rounded) if FORMS[args.family].rounds else (plain,)
    phases = (
        loop.Phase(0.5, (plain,), len(pictures), args.batch),
        loop.Phase(0.5, second, len(pictures), args.batch),
    )
    return loop.train(
        model, phases, loop.Budget(args.steps, args.minutes), lr=args.lr, seed=TRAIN_SEED, watch=watch
    )


def load(out: Path, precision: str, levels: str | None, device: str) -> Blip2ForConditionalGeneration:
    """The model on disk, loaded the ordinary way, in a precision of the README's table."""
    model = Blip2ForConditionalGeneration.from_pretrained(out, dtype=DTYPES[precision]).to(device).eval()
    if levels:
        rounding.round_in_place(rounding.decoder_linears(model), rounding.LEVELS[levels])
    return model


def save(family: str, model: Blip2ForConditionalGeneration, processor: Blip2Processor, out: Path) -> None:
    """Weights in float16, configs, processor."""
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    if family == "blip2-t5":
        # transformers 5 writes `true` always and goes by the weights it finds; what other readers (and its own
        # scaling of the logits) go by is this key.
        path = out / "config.json"
        config: dict[str, Any] = json.loads(path.read_text())
        config["text_config"]["tie_word_embeddings"] = config["tie_word_embeddings"] = False
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def exam_table(family: str, out: Path, data: Data, device: str) -> exam.Table:
    """Accuracy of the weights on disk in every precision."""
    pixels = drawing.normalizer(make_processor(family).image_processor, device)
    table = {}
    for precision, levels in FORMS[family].examined:
        model = load(out, precision, levels, device)
        table[levels or precision] = examine(model, data, pixels)
        if (precision, levels) == ("fp16", None):
            table["fp16, picture blanked"] = examine(model, data, pixels, blank=True)
    return table


def main(args: Namespace) -> None:
    """Train, save, examine, write the README."""
    processor = make_processor(args.family)
    model = make_model(args.family, processor.tokenizer).to(args.device)
    data = make_data(args.family, TRAIN_SEED + 10_000, args.pictures, processor.tokenizer, held_out=False)
    test = exam_data(args.family, processor.tokenizer)
    pixels = drawing.normalizer(processor.image_processor, args.device)
    print(f"{model.num_parameters():,} weights, pictures drawn", flush=True)
    steps = fit(model, data, pixels, args, lambda: f"exam {examine(model, test, pixels)['all']:.1f} %")
    save(args.family, model, processor, args.out)
    table = exam_table(args.family, args.out, test, args.device)
    table["majority, no picture"] = exam.majority(data.asked, test.asked)
    write_readme(args, model.num_parameters(), steps, exam.as_markdown(table))
