"""The README of a demo model: what it is, the command that made it, what was measured."""

from __future__ import annotations

import time
from argparse import Namespace

import torch

EXAM = """About one in nine combinations of shape, colour and count (of shape, colour and place for single objects)
is held out of training; half of the exam's {exam} show only such combinations.
An answer counts when every token of it is right.

{table}

`majority` gives each question its commonest answer in training; `picture blanked` is the fp16 model shown
grey. No model was trained on text alone: with nothing to see there is nothing to learn but what `majority`
counts."""
INT = " int8 and int4 round the\ndecoder's linear layers with TensorRT-LLM's weight-only arithmetic."
BLIP2 = """# {name}

A BLIP-2 over {language} of {parameters:,} weights (float16).
It answers questions about pictures of coloured shapes: which shape, what colour, how many (1 to 5), where (9
places, single objects) and a sentence that describes the picture. Prompt:
`Question: how many shapes ? Answer:`; the processor puts the 16 places of the picture in front. It knows the
words of its small world only; `tools/shapes_world.py` lists the wordings it was trained on.

{made}{how}

"""
OPT_HOW = """ In the second half of the training
every other step rounds the decoder's linear layers to int4 (absmax/8 per output channel, straight-through
gradients)."""
TEXTS = {
    "blip2-opt": BLIP2.replace("{language}", "OPT").replace("{how}", OPT_HOW) + EXAM + INT,
    "blip2-t5": BLIP2.replace("{language}", "T5 (v1.1: gated, untied head)").replace("{how}", "") + EXAM,
    "vila": """# {name}

A VILA in the directory layout of VILA-1.5, {parameters:,} weights (float16): a SigLIP tower (56 x 56 pixels,
patches of 8), 2 x 2 down-sampling (7 x 7 patches, padded to 8 x 8, give 16 features) and a LLaMA. It answers
questions about one picture of coloured shapes (which, what colour, how many, where, a sentence) and about two
(which has more, whether colour or shape are the same, what either shows). Prompts: `USER: <image> how many
shapes ? ASSISTANT:` and `USER: <image> <image> which picture has more shapes ? ASSISTANT:`. `<image>` is cut
out of the text and no token. It knows the words of its small worlds only: `tools/shapes_world.py`,
`tools/pairs_world.py`. As in VILA the features are those before the tower's last layer; that layer and the
tower's pooling head are in the files and were never trained.

{made} In the second half of the training
every other step rounds the language model's linear layers to int4 (absmax/8 per output channel, straight-through
gradients).

""" + EXAM + INT,
    "nougat": """# {name}

A Nougat of {parameters:,} weights (float16): a Donut-Swin tower over 160 x 160 pixels (10 x 10 features) and
an MBart decoder, which reads small printed pages of random words into markup, one token a character: `# title`,
lines, `* item`, `**bold**`. It takes a picture and no prompt. The pages (`tools/pages_world.py`) are set in
Pillow's own font in two sizes; margins, spacing, ink and paper vary.

{made} About one word in nine is held out of training.
The exam is 200 pages that hold only such words, 60 to 170 characters of markup each, read by greedy decoding
through transformers' `generate`. The error rate is edit distance over the length of the right text, all pages
together.

{table}

`blank page` is the fp16 model shown an empty page instead of each of them.""",
}  # fmt: skip
MODEL_NAMES = {
    "blip2-opt": "blip2-opt-shapes", "blip2-t5": "blip2-t5-shapes", "vila": "vila-shapes", "nougat": "nougat-pages",
}  # fmt: skip


def write_readme(args: Namespace, parameters: int, steps: int, table: str) -> None:
    """Print the table and write it, with the command, into ``args.out/README.md``."""
    print(table, flush=True)
    name = MODEL_NAMES[args.family]
    device = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU"
    command = f"python tools/train_demo.py --family {args.family} --out examples/models/{name}"
    command += "".join(f" --{key} {value:g}" for key, value in args.given.items())
    seconds = time.monotonic() - args.started
    things = {"vila": "pairs of pictures", "nougat": "pages"}.get(args.family, "pictures")
    made = (
        f"Made by `{command}`\n({steps:,} steps of {args.batch} {things}, {args.pictures:,} of them drawn, fixed"
        f" seeds, {seconds:.0f} s on {device};\nother devices give other last digits)."
    )
    exam = "500 pictures and 500 pairs" if args.family == "vila" else "500 pictures"
    text = TEXTS[args.family].format(name=name, parameters=parameters, made=made, table=table, exam=exam)
    (args.out / "README.md").write_text(text + "\n")
