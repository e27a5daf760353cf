"""transformers' side, with compressed-tensors and nothing of mmbuild: ``python transformers_side.py JOB``.

JOB is JSON: ``checkpoint``, ``questions``, ``vllm`` (what vLLM answered), ``out`` and ``tokens``. Writes its own
greedy answers, and for each of vLLM's tokens whether it would be the likeliest after those before it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(checkpoint: str) -> Any:
    """The model in float16 quantized layers unpacked."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float16).to(DEVICE)
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.compressor.decompress_model(model=model)
    return model.eval()


@torch.inference_mode()
def main() -> None:
    from PIL import Image
    from transformers import AutoProcessor

    job = json.loads(sys.argv[1])
    asked = json.loads(Path(job["questions"]).read_text("utf-8"))
    theirs = json.loads(Path(job["vllm"]).read_text("utf-8"))["answers"]
    model, processor = load(job["checkpoint"]), AutoProcessor.from_pretrained(job["checkpoint"])
    answers = []
    for question, other in zip(asked, theirs, strict=True):
        image = Image.open(question["picture"]).convert("RGB")
        inputs = processor(images=image, text=question["prompt"], return_tensors="pt").to(
            DEVICE, torch.float16
        )
        own = model.generate(**inputs, do_sample=False, max_new_tokens=job["tokens"])
        own = own[0].tolist()
        prompt = inputs["input_ids"][0].tolist()
        own = own[len(prompt) :] if own[: len(prompt)] == prompt else own
        answers.append(
            {
                "same_prompt": prompt == other["prompt"],
                "tokens": own,
                "text": processor.tokenizer.decode(own, skip_special_tokens=True).strip(),
                "behind": forced(model, inputs, other["tokens"]),
            }
        )
    Path(job["out"]).write_text(json.dumps({"answers": answers}), encoding="utf-8")


def forced(model: Any, inputs: Any, tokens: list[int]) -> list[float]:
    """How much less likely than the likeliest each token is after those before it, nats; 0: it is the likeliest."""
    given = torch.tensor([tokens], device=DEVICE)
    ids = torch.cat([inputs["input_ids"], given], dim=1)
    arguments = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = model(**arguments).logits[0, -len(tokens) - 1 : -1].float()
    found: list[float] = (logits.amax(-1) - logits.gather(-1, given[0, :, None])[:, 0]).tolist()
    return found


if __name__ == "__main__":
    main()
