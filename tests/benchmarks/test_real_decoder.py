"""Scores and intervals of benchmarks.real_decoder, on random numbers."""

import math

import numpy as np
import pytest
import torch
from benchmarks.real_decoder.score import Score, difference, log_probabilities, score, worse, worse_perplexity
from benchmarks.real_decoder.table import table
from benchmarks.real_decoder.texts import SCORED, Passages, corpus
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

VOCABULARY = 11


class Model(nn.Module):
    """Logits that depend on the token alone, like a table of bigrams."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))

    def forward(self, input_ids, logits_to_keep, **_):
        return type("Output", (), {"logits": self.table[input_ids][:, -logits_to_keep:]})


@pytest.fixture(scope="module")
def passages() -> Passages:
    ids = torch.randint(VOCABULARY, (5, SCORED + 7), generator=torch.Generator().manual_seed(1))
    return Passages(ids, torch.zeros(5, 3, 2, 2))


def test_divergence_and_loss_are_torch_s(passages):
    one, other = Model(1), Model(2)
    found = score(
        log_probabilities(one, passages, "cpu"), log_probabilities(other, passages, "cpu"), passages
    )
    for number, ids in enumerate(passages.ids):
        before, targets = ids[-SCORED - 1 : -1], ids[-SCORED:]
        expected, logits = one.table[before].log_softmax(-1), other.table[before]
        divergence = kl_div(logits.log_softmax(-1), expected, log_target=True, reduction="batchmean")
        assert found.divergence[number] == pytest.approx(divergence.item(), rel=1e-5)
        assert found.loss[number] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-5)


def test_a_model_does_not_diverge_from_itself(passages):
    found = score(
        log_probabilities(Model(1), passages, "cpu"), log_probabilities(Model(1), passages, "cpu"), passages
    )
    assert np.abs(found.divergence).max() < 1e-6


def test_worse_needs_an_interval_above_two_percent():
    random = np.random.default_rng(0)
    theirs = random.uniform(0.5, 1.5, size=100)
    noise = random.normal(0, 0.01, size=100)
    assert worse(theirs * 1.05 + noise, theirs)
    assert not worse(theirs * 1.01 + noise, theirs)  # surely larger, by less than is tolerated
    assert not worse(theirs + random.normal(0.05, 1, size=100), theirs)  # too noisy to say
    assert not worse(theirs, theirs * 1.05)


def test_perplexities_are_compared_by_their_ratio():
    losses = np.full(50, 3.0) + np.random.default_rng(0).normal(0, 0.2, size=50)
    assert worse_perplexity(losses + math.log(1.03), losses)
    assert not worse_perplexity(losses + math.log(1.01), losses)


def test_the_interval_is_that_of_differences_in_pairs():
    """Passages differ far more than tools do on one passage."""
    theirs = np.linspace(0, 100, 60)
    low, high = difference(theirs + 0.5, theirs)
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)


def test_the_table_says_where_mmbuild_is_worse(passages):
    good = Score(np.full(5, 0.1), np.full(5, 2.0))
    bad = Score(np.full(5, 0.2), np.full(5, 2.5))
    lines = table(
        {"int4": {"mmbuild": bad, "other": good}, "int8": {"mmbuild": good, "other": bad}}, passages
    )
    assert "| int4 | other | 0.1000 | 7.39 | +0.1000 to +0.1000 | 1.649 to 1.649 | KL, perplexity |" in lines
    assert "| int8 | other | 0.2000 | 12.18 | -0.1000 to -0.1000 | 0.607 to 0.607 | no |" in lines


def test_texts_are_the_same_every_time_and_without_repetition():
    text = corpus()
    parts = text.split("\n\n")
    assert text == corpus()
    assert len(text) > 200_000
    assert len(set(parts)) == len(parts)
