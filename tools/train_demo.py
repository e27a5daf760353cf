"""Train a demo model of ``examples/models`` from scratch and examine it.

    python tools/train_demo.py --family blip2-opt --out examples/models/blip2-opt-shapes

Models of one to two million weights in the layout of their real kin, trained on worlds drawn from seeds
(``shapes_world``, ``pairs_world``, ``pages_world``). Minutes on a recent GPU; on a CPU it takes patience. Prints
the accuracy of every precision by kind of question, and of baselines that do not see the picture, and writes the
same table into the model's README.md. ``training/<family>.py`` says what each model is.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

import torch

MODULES = {
    "llava": "training.llava",
    "blip2-opt": "training.blip2",
    "blip2-t5": "training.blip2",
    "vila": "training.vila",
    "nougat": "training.nougat",
}
SEED = 20240611


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=MODULES, default="llava")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, help="end earlier; the schedule then follows the clock")
    parser.add_argument("--batch", type=int, help="pictures (pairs of them, pages) a step")
    parser.add_argument("--pictures", type=int, help="pictures (pairs, pages) to draw")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    module = importlib.import_module(MODULES[args.family])
    args.started = time.monotonic()
    args.given = {key: value for key in module.DEFAULTS if (value := getattr(args, key)) is not None}
    vars(args).update(module.DEFAULTS | args.given)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    module.main(args)


if __name__ == "__main__":
    main()
