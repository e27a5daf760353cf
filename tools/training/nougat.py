"""The demo model of Nougat, ``examples/models/nougat-pages``: a Donut-Swin tower and an MBart decoder in small.

Ordinary ``VisionEncoderDecoderModel`` with ``NougatProcessor``; a character is a token. Training begins with
pages of one or two lines: what to look at next is learned there, in a fraction of the time.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    DonutSwinConfig,
    GenerationConfig,
    MBartConfig,
    NougatImageProcessorPil,
    NougatProcessor,
    NougatTokenizer,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

import pages_world
from training import drawing, loop
from training.readme import write_readme

IMAGE, WIDTH, EMBED = 160, 160, 40
FIRST = ("<s>", "<pad>", "</s>", "<unk>", "[START_REF]")
BOS, PAD, EOS = 0, 1, 2
SHORT = (1, 2)
LENGTH, SHORT_LENGTH = 176, 96
SHORT_SHARE = 0.2
TRAIN_SEED, EXAM_SEED, EXAM_PAGES = 20240617, 79_003, 200
DEFAULTS = {"steps": 30_000, "minutes": 600.0, "batch": 128, "pictures": 200_000, "lr": 1e-3}
EXAMINED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Data:
    """``pages`` uint8 [n, 160, 160], the grey level of processed pages before normalization; ``labels`` int64
    [n, length], the markup and its end, -100 after; the markup."""

    pages: Tensor
    labels: Tensor
    markup: list[str]


def make_processor() -> NougatProcessor:
    """Pages shrunk to 160 pixels and padded above and below; character-level tokenizer."""
    names = {" ": "Ġ", "\n": "Ċ"}  # how the byte-level tokenizer writes them
    characters = [names.get(c, c) for c in pages_world.characters()]
    vocabulary = {token: i for i, token in enumerate((*FIRST, *characters))}
    tokenizer = NougatTokenizer(vocab=vocabulary, merges=[])
    return NougatProcessor(make_image_processor(), tokenizer)


def make_image_processor(**changes: bool) -> NougatImageProcessorPil:
    """Nougat's own steps at 160 x 160 pixels, but for cropping margins."""
    return NougatImageProcessorPil(size={"height": IMAGE, "width": IMAGE}, do_crop_margin=False, **changes)


def make_model(tokenizer: NougatTokenizer) -> VisionEncoderDecoderModel:
    """The model, with fresh weights from the seed in force."""
    encoder = DonutSwinConfig(
        image_size=[IMAGE, IMAGE], patch_size=4, embed_dim=EMBED, depths=[2, 2, 2], num_heads=[2, 4, 8],
        window_size=10, mlp_ratio=4.0, drop_path_rate=0.0,
    )  # fmt: skip
    decoder = MBartConfig(
        vocab_size=-(-len(tokenizer) // 16) * 16, d_model=WIDTH, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=480, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=480,
        max_position_embeddings=256, dropout=0.0, activation_function="gelu", is_decoder=True,
        is_encoder_decoder=False, add_cross_attention=True, scale_embedding=True, add_final_layer_norm=True,
        tie_word_embeddings=False, init_std=0.03,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, tie_word_embeddings=False, decoder_start_token_id=BOS, pad_token_id=PAD,
        eos_token_id=EOS, bos_token_id=BOS,
    )  # fmt: skip
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=BOS, max_length=200
    )
    # Scaled by sqrt(width) in the model: this makes the rows that enter it of size one.
    nn.init.normal_(model.get_input_embeddings().weight, std=WIDTH**-0.5)
    return model


def draw_pages(job: tuple[int, int, bool, tuple[int, ...]]) -> tuple[np.ndarray, list[str]]:
    """Processed pages uint8 [count, 160, 160] and their markup, for a job (seed, count, held_out, lines)."""
    seed, count, held_out, lines = job
    rng = np.random.default_rng(seed)
    shrink = make_image_processor(do_rescale=False, do_normalize=False)
    pages, markup = np.empty((count, IMAGE, IMAGE), np.uint8), []
    for i in range(count):
        page = pages_world.draw_page(rng, held_out=held_out, lines=lines)
        picture = pages_world.draw_picture(page, rng)
        pages[i] = shrink(picture, return_tensors="np")["pixel_values"][0, 0]
        markup.append(pages_world.markup(page))
    return pages, markup


def make_data(
    seed: int, count: int, tokenizer: NougatTokenizer, *, held_out: bool, lines: tuple[int, ...], length: int
) -> Data:
    """``count`` pages drawn from ``seed``."""
    parts = drawing.drawn(draw_pages, seed, count, held_out, lines)
    markup = [text for _, part in parts for text in part]
    number = {{"Ġ": " ", "Ċ": "\n"}.get(token, token): i for token, i in tokenizer.get_vocab().items()}
    labels = np.full((count, length), -100, np.int64)
    for row, text in zip(labels, markup, strict=True):
        row[: len(text) + 1] = [*(number[c] for c in text), EOS]
    return Data(
        torch.from_numpy(np.concatenate([pages for pages, _ in parts])), torch.from_numpy(labels), markup
    )


def exam_data(tokenizer: NougatTokenizer) -> Data:
    """200 pages of another seed, all of words held out of training."""
    return make_data(EXAM_SEED, EXAM_PAGES, tokenizer, held_out=True, lines=pages_world.FULL, length=LENGTH)


def normalizer(device: str) -> Callable[[Tensor], Tensor]:
    """From ``Data.pages`` on ``device`` to the processor's float32 [n, 3, 160, 160]."""
    pixels = drawing.normalizer(make_image_processor(), device)
    return lambda pages: pixels(pages[..., None].expand(-1, -1, -1, 3))


def answer_logits(model: VisionEncoderDecoderModel, images: Tensor, labels: Tensor) -> Tensor:
    """Logits [n, length, vocabulary] for ``labels``."""
    told = torch.where(labels < 0, PAD, labels)
    before = torch.cat((torch.full_like(told[:, :1], BOS), told[:, :-1]), dim=1)
    seen = model.encoder(pixel_values=images).last_hidden_state
    rows = model.get_input_embeddings()(before)
    return model.decoder(
        inputs_embeds=rows, attention_mask=loop.causal_mask(rows), encoder_hidden_states=seen, use_cache=False
    ).logits


def fit(
    model: VisionEncoderDecoderModel, data: tuple[Data, Data], args: Namespace, watch: Callable[[], str]
) -> int:
    """Train on short pages, then on the others. Returns the steps made."""
    pixels = normalizer(args.device)

    def phase(share: float, part: Data) -> loop.Phase:
        pages, labels = part.pages.to(args.device), part.labels.to(args.device)

        def loss(pick: Tensor) -> Tensor:
            wanted = labels[pick]
            return loop.answer_loss(answer_logits(model, pixels(pages[pick]), wanted), wanted)

        return loop.Phase(share, (loss,), len(pages), args.batch)

    phases = (phase(SHORT_SHARE, data[0]), phase(1 - SHORT_SHARE, data[1]))
    return loop.train(
        model, phases, loop.Budget(args.steps, args.minutes), lr=args.lr, seed=TRAIN_SEED, watch=watch
    )


@torch.no_grad()
def teacher_forced(model: VisionEncoderDecoderModel, data: Data, device: str) -> float:
    """Percentage of characters that are the most likely ones after the right ones before them."""
    labels = data.labels.to(device)
    best = answer_logits(model, normalizer(device)(data.pages.to(device)), labels).argmax(-1)
    asked = labels != -100
    return 100 * float(((best == labels) & asked).sum() / asked.sum())


def read(model: VisionEncoderDecoderModel, images: Tensor, tokenizer: NougatTokenizer) -> list[str]:
    """What the model reads on ``images`` [n, 3, 160, 160], by greedy decoding."""
    ids = model.generate(pixel_values=images.to(model.dtype), do_sample=False, max_length=200)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions, one each."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        diagonal, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], min(row[j] + 1, row[j + 1] + 1, diagonal + (x != y))
    return row[-1]


def examine(
    model: VisionEncoderDecoderModel,
    data: Data,
    tokenizer: NougatTokenizer,
    device: str,
    *,
    blank: bool = False,
) -> dict[str, float]:
    """Percentages: wrong characters (edit distance over length), pages exactly right."""
    pixels, texts = normalizer(device), []
    empty = _empty_page()
    for start in range(0, len(data.pages), 50):
        pages = data.pages[start : start + 50]
        shown = empty.expand_as(pages) if blank else pages
        texts += read(model, pixels(shown.to(device)), tokenizer)
    wrong = sum(distance(text, right) for text, right in zip(texts, data.markup, strict=True))
    exact = sum(text == right for text, right in zip(texts, data.markup, strict=True))
    return {
        "character error rate": 100 * wrong / sum(map(len, data.markup)),
        "pages exactly right": 100 * exact / len(texts),
    }


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """The table of the README."""
    kinds = list(next(iter(table.values())))
    lines = ["| % | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{row[k]:.2f}" for k in kinds) + " |" for name, row in table.items()
    ]
    return "\n".join(lines)


def load(out: Path, precision: str, device: str) -> VisionEncoderDecoderModel:
    """The model on disk, loaded the ordinary way."""
    return VisionEncoderDecoderModel.from_pretrained(out, dtype=EXAMINED[precision]).to(device).eval()


def main(args: Namespace) -> None:
    """Train, save, examine, write the README."""
    processor = make_processor()
    tokenizer = processor.tokenizer
    model = make_model(tokenizer).to(args.device)
    few = args.pictures // 4
    short = make_data(
        TRAIN_SEED + 10_000, few, tokenizer, held_out=False, lines=SHORT, length=SHORT_LENGTH
    )  # fmt: skip
    full = make_data(
        TRAIN_SEED + 20_000, args.pictures - few, tokenizer, held_out=False, lines=pages_world.FULL, length=LENGTH
    )  # fmt: skip
    test = exam_data(tokenizer)
    print(f"{model.num_parameters():,} weights, pages drawn", flush=True)
    steps = fit(
        model,
        (short, full),
        args,
        lambda: f"exam {teacher_forced(model, test, args.device):.2f} % of characters",
    )
    model.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    table = {}
    for precision in EXAMINED:
        model = load(args.out, precision, args.device)
        table[precision] = examine(model, test, tokenizer, args.device)
        if precision == "fp16":
            table["fp16, blank page"] = examine(model, test, tokenizer, args.device, blank=True)
    write_readme(args, model.num_parameters(), steps, as_markdown(table))


def _empty_page() -> Tensor:
    blank = Image.new("RGB", (pages_world.WIDTH, pages_world.HEIGHT), (240, 240, 240))
    shrink = make_image_processor(do_rescale=False, do_normalize=False)
    return torch.from_numpy(shrink(blank, return_tensors="np")["pixel_values"][0, :1])
