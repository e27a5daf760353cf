"""BLIP-2's files: tokenizer next to the language model, image processor next to the tower."""

from __future__ import annotations

from mmbuild.models.families.blip2 import WHOLE, language_model
from mmbuild.models.families.facts import Config
from mmbuild.models.files.expected_files import ExpectedFiles


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:
    """See :class:`~mmbuild.models.files.expected_files.ExpectedFiles`."""
    width = language_model(config).WIDTH
    whole = config.get("model_type") == WHOLE
    key = next((k for k in ("image_token_index", "image_token_id") if config.get(k) is not None), None)
    return ExpectedFiles(
        vocab_size="text_config.vocab_size" if whole else "vocab_size",
        hidden_size=f"text_config.{width}" if whole else width,
        image_size="vision_config.image_size",
        image_class="Blip",
        images=("model" if vision is None else "vision", ""),
        # The id that a whole model states is the tokenizer's; for other models it is the first free one.
        image_token=key if whole else None,
        adds_image_token=True,
        queries=True,
    )
