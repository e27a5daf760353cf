"""Engines of every family give transformers' tokens at random small shapes: greedy, by beams, alone, in a batch."""

import pytest

from mmbuild.backends.torch.beam_search import Beams
from mmbuild.backends.torch.generate import Stopping
from mmbuild.backends.torch.parity import compare
from mmbuild.models.families.reference import continue_greedily
from support.engines.families import BATCH, BEAMS, engine, reference, requests
from support.models.references import beam_search

pytestmark = pytest.mark.slow

TOKENS = 16
# Between them: norms before and after, tied heads and others, gated and plain MLPs, scaled embeddings and plain ones,
# a projection behind the tower and none, one source and two.
MODELS = [
    pytest.param("blip2-opt", 10, marks=pytest.mark.extended),
    ("blip2-opt/two", 10),
    pytest.param("blip2-opt/two", 6, marks=pytest.mark.extended),
    pytest.param("blip2-t5", 4, marks=pytest.mark.extended),
    ("blip2-t5/two", 10),
    # A minute of compiling Swin's stages each; the shipped Nougat is in test_demo_models.py.
    pytest.param("nougat", 1, marks=pytest.mark.extended),
    pytest.param("nougat", 7, marks=pytest.mark.extended),
    ("vila", 1),
    ("vila/flat", 1),
    pytest.param("vila/flat", 2, marks=pytest.mark.extended),
]
models = pytest.mark.parametrize(("family", "seed"), MODELS)


@models
def test_greedy_tokens_are_the_reference_s_alone_and_in_a_batch(family, seed):
    built, transformers = engine(family, seed), reference(family, seed)
    requested = requests(built, [3, 9, 1], seed)
    suppressed = built.processor.suppressed_token_ids
    continued = [continue_greedily(transformers, request, TOKENS, suppressed) for request in requested]
    expected = [continuation.tokens for continuation in continued]
    apart = [(continued[0].logits - other.logits).abs().max() for other in continued[1:]]
    assert min(apart) > 0.01, "the prompts must lead to different answers"
    stopping = built.stopping(TOKENS, ignore_eos=True)
    assert [answer.token_ids for answer in built.run(requested, stopping).answers] == expected
    alone = [built.run([request], stopping).answers[0].token_ids for request in requested]
    assert alone == expected
    for request, continuation in zip(requested, continued, strict=True):
        assert compare(built, request, continuation).max_kl < 1e-5


@models
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
def test_beams_find_the_reference_s_sequences(family, seed, penalty):
    built, transformers = engine(family, seed), reference(family, seed)
    requested = requests(built, [2, 7, 4], seed + 1)
    suppressed = built.processor.suppressed_token_ids
    greedy = [continue_greedily(transformers, request, TOKENS, suppressed).tokens for request in requested]
    ends = (greedy[0][5], greedy[1][9])  # so that beams end at different lengths
    found = [
        beam_search(
            transformers,
            request,
            width=BEAMS,
            tokens=TOKENS,
            ends=ends,
            suppressed=suppressed,
            penalty=penalty,
        )
        for request in requested
    ]
    stopping = Stopping(TOKENS, ends, suppressed)
    answers = built.run(requested, stopping, beams=Beams(BEAMS, penalty)).answers
    assert [list(answer.token_ids) for answer in answers] == found
    assert len(requested) == BATCH


@models
def test_one_beam_is_greedy(family, seed):
    built = engine(family, seed)
    requested = requests(built, [4, 4, 2], seed)
    greedy = built.run(requested, built.stopping(TOKENS)).answers
    assert built.run(requested, built.stopping(TOKENS), beams=Beams(1)).answers == greedy
