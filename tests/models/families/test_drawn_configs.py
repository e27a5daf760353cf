"""Facts are those of transformers' parsed config, whatever a config.json says and however it spells it."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

import pytest
import torch

from mmbuild.backends.torch.positions import inverse_frequencies
from mmbuild.models.families import MODULES, FamilyError, ModelFacts, family
from mmbuild.models.families.sanity_checks import require_sound
from support.marks import slow_except
from support.models import config_oracle
from support.models.config_oracle import Expected, RefusalError
from support.models.random_configs import Drawer

# (seed, share of nulls and as many wrong values, configs): mostly right configs, and mostly wrong ones.
DRAWS = slow_except([(1, 0.01, 50), (1, 0.01, 150), (2, 0.08, 150)], (1, 0.01, 50))
# Why mmbuild refuses a config that transformers takes; everything else must agree.
NOT_BUILT = (
    r"only LLaMA decoders without biases are supported",
    r"only OPT decoders with biases and weighted norms are supported",
    r"a kind of rotary scaling that is not supported",
    r"only decoders without a window are supported",
    r"`[\w.]*layer_types`",
    r"and must be 3, for red, green and blue",
    r"one number of pixels; only square pictures and patches are supported",
    r"a number of pixels, or height and width",
    r"no patch fits",
    r"an activation that transformers knows",
    r"only towers without them are supported",
    r"could not attend to the page",
    r"`[\w.]*is_encoder_decoder`",  # it contradicts the class
    r"mBART's cross-attention needs features of the decoder's width",
    # The config is taken, and the modules that are made of it are not.
    r"must be a multiple of",
    r"`[\w.]*(num_attention_heads|decoder_attention_heads|num_query_tokens|d_kv)` .* must be at least 1",
    r"`encoder.hidden_size` is .*, and `embed_dim` and `depths` make",
    r"`encoder.(num_heads|depths|window_size)`",
    r"rotary positions need an even one",
    r"and the tower has -?\d+ layers",
    r"config.json describes no model",
    r"model.vision is made for a language model of",
    # Values that are set without a check, and that nothing can be computed with.
    r"`[\w.]*(image_token_id|num_attention_heads|num_hidden_layers|hidden_size|head_dim)` .* must be a (whole|list)",
    r"must be (a token id|the id of the token)",
    r"`[\w.]*rope_theta` .* must be a number above 0",
    r"must be the name of a number format in torch",
    r"must be a number of at most 64 bits|JSON has no NaN",
)


def refuses_with_a_listed_reason(error: FamilyError) -> bool:
    return any(re.search(reason, error.message) for reason in NOT_BUILT)


def ours(name: str, config: dict[str, Any], second: dict[str, Any] | None) -> ModelFacts:
    facts = family(name).facts(copy.deepcopy(config), copy.deepcopy(second))
    require_sound(facts)
    return facts


def assert_same(found: ModelFacts, expected: Expected) -> None:
    pairs = [(found.llm, expected.llm), (found.visual, expected.visual), (found, expected.model)]
    if expected.encoder:
        pairs.append((found.encoder, expected.encoder))
    for part, values in pairs:
        mine = {key: getattr(part, key) for key in values}
        assert mine == values
        assert {key: type(value) for key, value in mine.items()} == {
            key: type(value) for key, value in values.items()
        }
    if expected.frequencies is not None:
        torch.testing.assert_close(
            inverse_frequencies(found.llm), expected.frequencies, rtol=0, atol=0, equal_nan=True
        )


def read_by_both(
    name: str, config: dict[str, Any], second: dict[str, Any] | None
) -> tuple[ModelFacts | FamilyError, Expected | RefusalError]:
    """What mmbuild and transformers say, refusals included."""
    found: ModelFacts | FamilyError
    expected: Expected | RefusalError
    try:
        found = ours(name, config, second)
    except FamilyError as error:
        found = error
    try:
        expected = config_oracle.read(name, config, second)
    except RefusalError as error:
        expected = error
    return found, expected


@pytest.mark.parametrize(("seed", "wrong", "count"), DRAWS)
@pytest.mark.parametrize("name", sorted(MODULES))
def test_facts_are_what_transformers_reads(name: str, seed: int, wrong: float, count: int) -> None:
    drawer = Drawer(random.Random(f"{name} {seed}"), wrong)
    agreed = refused = 0
    for _ in range(count):
        config, second = drawer.config(name)
        reported = json.dumps([config, second])
        found, expected = read_by_both(name, config, second)
        if isinstance(expected, RefusalError):
            assert isinstance(found, FamilyError), f"{expected}: {reported}"
            refused += 1
        elif isinstance(found, FamilyError):
            assert refuses_with_a_listed_reason(found), f"{found.message}: {reported}"
        else:
            assert_same(found, expected)
            agreed += 1
    assert agreed > count / (4 if wrong < 0.05 else 10)
    assert refused > count / 20
