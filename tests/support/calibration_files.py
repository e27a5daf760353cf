"""What a recipe with calibration names, without content that anything looks at while it is planned."""

import json
from pathlib import Path

SAMPLES = 8


def write(root: Path) -> None:
    """``model/`` with the files that a model must have beside config.json, and ``data.jsonl`` with its pictures."""
    (root / "model").mkdir()
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        (root / "model" / name).touch()
    for number in range(SAMPLES):
        (root / f"{number}.png").write_text(f"picture {number}")
    lines = [json.dumps({"image": f"{number}.png", "prompt": "why?"}) for number in range(SAMPLES)]
    (root / "data.jsonl").write_text("\n".join(lines))
