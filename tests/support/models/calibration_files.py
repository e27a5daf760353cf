"""What a recipe with calibration names, without content that anything looks at while it is planned."""

import json
from pathlib import Path

from support.projects.recipe_project import png, write_parts

SAMPLES = 8


def write(root: Path) -> None:
    """``model/`` with the files that a model must have next to config.json, and ``data.jsonl`` with its pictures."""
    write_parts(root / "model")
    for number in range(SAMPLES):
        (root / f"{number}.png").write_bytes(png(number))
    lines = [json.dumps({"image": f"{number}.png", "prompt": "why?"}) for number in range(SAMPLES)]
    (root / "data.jsonl").write_text("\n".join(lines))
