"""``families/defaults.yaml`` says what transformers' config classes say."""

from __future__ import annotations

import json

import pytest
import yaml
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mmbuild.families import defaults

TABLE = yaml.safe_load((defaults.files("mmbuild.families") / "defaults.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_every_default_is_transformers(model_type: str) -> None:
    theirs = CONFIG_MAPPING[model_type]()
    assert theirs.model_type == model_type
    plain = json.loads(json.dumps({key: getattr(theirs, key) for key in TABLE[model_type]}))
    assert TABLE[model_type] == plain


def test_a_stated_value_goes_before_the_default() -> None:
    merged = defaults.with_defaults("llama", {"hidden_size": 7})
    assert (merged["hidden_size"], merged["vocab_size"]) == (7, 32000)
