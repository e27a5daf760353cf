"""Completes the processor's files of older models: mmbuild fills in what they do not state, servers do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbuild.base.files import read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.models.families import family as find_family
from mmbuild.models.families import part
from mmbuild.models.files.chat_template import saved_template

PROCESSOR, TEMPLATE = "processor_config.json", "chat_template.jinja"


def completed(model: Path, family: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the files that a model's directory should have, by name; empty if it states everything.

    Args:
        model: Directory of the model's small files.
        family: The model's family.
        config: Its ``config.json``.

    Raises:
        TemplateError, SmallFileError: MM730, MM731, a chat template cannot be used or read.
    """
    expected = part(family, "files").expected(config)
    files = {}
    path = model / PROCESSOR
    stated = read_object(path, MODEL_JSON) if path.is_file() else {}
    missing = {
        name: value for name, value in _counts(expected, family, config).items() if stated.get(name) is None
    }
    if missing:
        files[PROCESSOR] = json.dumps({**stated, **missing}, indent=2, sort_keys=True) + "\n"
    if expected.template is not None and saved_template(model, holder=expected.template) is None:
        from mmbuild.models.families.llava.processor import image_token
        from mmbuild.models.families.shared.chat import IMAGE, own_template
        from mmbuild.models.families.shared.hugging_face import saved_tokenizer

        token = image_token(saved_tokenizer(model), find_family(family).facts(config).image_token_id)
        files[TEMPLATE] = own_template(f"mmbuild.models.families.{family}").replace(IMAGE, token)
    return files


def _counts(expected: Any, family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by which a processor counts the placeholders of an image."""
    if expected.queries:
        return {"num_query_tokens": find_family(family).facts(config).visual.num_visual_features}
    counted = expected.placeholders
    if counted is None:
        return {}
    return {
        "patch_size": counted.patch,
        "vision_feature_select_strategy": counted.strategy,
        "num_additional_image_tokens": counted.additional,
    }
