"""LLaVA's files: everything is in one directory, and the processor repeats sizes of the tower."""

from __future__ import annotations

from mmbuild.models.families.facts import Config
from mmbuild.models.families.llava import facts as read_facts
from mmbuild.models.families.llava import sections
from mmbuild.models.files.expected_files import ExpectedFiles
from mmbuild.models.files.processor_config import Placeholders


def expected(config: Config, vision: Config | None = None) -> ExpectedFiles:
    """See :class:`~mmbuild.models.files.expected_files.ExpectedFiles`."""
    facts, read = read_facts(config, vision), sections(config)
    patches = (facts.visual.image_size[0] // read.tower["patch_size"]) ** 2
    return ExpectedFiles(
        vocab_size="text_config.vocab_size",
        hidden_size="text_config.hidden_size",
        image_size="vision_config.image_size",
        image_class="Llava",
        whole_processor=True,
        image_token="image_token_id" if config.get("image_token_id") is not None else "image_token_index",
        template="processor",
        placeholders=Placeholders(
            side=facts.visual.image_size,
            patch=read.tower["patch_size"],
            # Without the class token there are as many features as patches.
            strategy="default" if facts.visual.num_visual_features == patches else "full",
            additional=1,
        ),
    )
