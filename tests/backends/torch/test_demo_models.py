"""The shipped models, asked through their engines about fresh pictures: transformers' tokens, right answers."""

import pytest
import torch

import demo_worlds
from mmbuild.backends.comparison import TIE, is_tie
from mmbuild.backends.torch.beam_search import Beams
from mmbuild.backends.torch.parity import compare
from mmbuild.models.families.reference import continue_greedily
from support.engines.demo import BATCH, BEAMS, engine, reference
from support.models.references import beam_search, rounded
from training.nougat import distance

pytestmark = pytest.mark.slow

FAMILIES = ("blip2-opt", "blip2-t5", "vila", "nougat")
# The format that each family's real recipes are in, and that transformers runs on a CPU.
HALF = {"blip2-opt": "float16", "blip2-t5": "bfloat16", "vila": "float16", "nougat": "bfloat16"}
TOKENS = {"nougat": 64}
QUESTIONS, WANTED = 40, 38
families = pytest.mark.parametrize("family", FAMILIES)


def drawn(family, seed, count=BATCH):
    return demo_worlds.ask(family, seed, count, held_out=True)


def encoded(built, requested):
    return built.encode([list(item.pictures) for item in requested], [item.prompt for item in requested])


def continued(built, transformers, request, tokens):
    return continue_greedily(transformers, request, tokens, built.processor.suppressed_token_ids)


@families
def test_tokens_are_the_reference_s_alone_and_in_a_batch(family):
    built, tokens = engine(family), TOKENS.get(family, 24)
    requests = encoded(built, drawn(family, 51))
    assert len({len(request.ids) for request in requests}) > 1 or not built.processor.takes_text
    expected = [continued(built, reference(family), request, tokens).tokens for request in requests]
    assert len(set(expected)) > 1, "the questions must lead to different answers"
    stopping = built.stopping(tokens, ignore_eos=True)
    assert [answer.token_ids for answer in built.run(requests, stopping).answers] == expected
    assert [built.run([request], stopping).answers[0].token_ids for request in requests[:2]] == expected[:2]


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.extended) if name != "vila" else name for name in FAMILIES],
)
def test_half_precision_parts_from_the_reference_only_where_rounding_decides(family):
    dtype, tokens = HALF[family], TOKENS.get(family, 24)
    built = engine(family, dtype)
    for request in encoded(built, drawn(family, 52, 2)):
        theirs = continued(built, reference(family, dtype), request, tokens)
        compared = compare(built, request, theirs)
        assert compared.difference is None or is_tie(compared.difference, dtype), compared
        assert compared.top1_agreement >= 0.9


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5", "nougat"])
def test_beams_find_the_reference_s_answer(family):
    built = engine(family)
    for request in encoded(built, drawn(family, 53, 2)):
        limit = built.config.max_output_len
        answer = built.run([request], built.stopping(limit), beams=Beams(BEAMS)).answers[0]
        assert 0 < len(answer.token_ids) < limit, "the answer must have come to its end"
        assert list(answer.token_ids) == beam_search(
            reference(family),
            request,
            width=BEAMS,
            tokens=limit,
            ends=built.description.eos_token_ids,
            suppressed=built.processor.suppressed_token_ids,
        )


@pytest.mark.parametrize(
    ("family", "dtype", "quantization"),
    [
        ("blip2-opt", "float32", "none"),
        pytest.param("blip2-opt", "float32", "int8", marks=pytest.mark.extended),
        ("blip2-t5", "float32", "none"),
        pytest.param("blip2-t5", "bfloat16", "none", marks=pytest.mark.extended),
        pytest.param("vila", "float32", "int4", marks=pytest.mark.extended),
    ],
)
def test_answers_are_right(family, dtype, quantization):
    built, right = engine(family, dtype, quantization), 0
    requested = drawn(family, 54, QUESTIONS)
    for start in range(0, QUESTIONS, BATCH):
        some = requested[start : start + BATCH]
        answers = built.generate([list(item.pictures) for item in some], [item.prompt for item in some])
        right += sum(answer.text == item.answer for answer, item in zip(answers, some, strict=True))
    assert right >= WANTED


def test_pages_are_read():
    built = engine("nougat")
    requested = drawn("nougat", 55, 20)
    wrong = 0
    for start in range(0, len(requested), BATCH):
        some = requested[start : start + BATCH]
        answers = built.generate([item.pictures for item in some], [None] * len(some))
        wrong += sum(distance(answer.text, item.answer) for answer, item in zip(answers, some, strict=True))
    assert wrong <= 0.03 * sum(len(item.answer) for item in requested)


# LLaVA with int8 and int4: test_engine.py.
@pytest.mark.extended
@pytest.mark.parametrize(
    ("family", "quantization", "layers", "levels"),
    [
        ("blip2-opt", "int8", "language_model.model.decoder.layers", 128),
        ("vila", "int4", "llm.model.layers", 8),
    ],
)
def test_quantized_engines_give_the_tokens_of_transformers_on_rounded_weights(
    family, quantization, layers, levels
):
    built, transformers = engine(family, "float32", quantization), reference(family)
    for request in encoded(built, drawn(family, 56, 2)):
        plain = continued(built, transformers, request, 1).logits[0]
        with rounded(transformers, layers, levels):
            theirs = continued(built, transformers, request, 24)
        first = built.session.prefill(*built.inputs([request]))[0]
        torch.testing.assert_close(first, theirs.logits[0], atol=TIE["float32"], rtol=0)
        assert (plain - first).abs().max() > 10 * TIE["float32"], (
            "rounding must matter for this to say anything"
        )
        compared = compare(built, request, theirs)
        assert compared.engine_tokens == compared.reference_tokens
        assert compared.max_kl < 1e-5


def test_a_streamed_page_is_the_page():
    built = engine("nougat")
    (requested,) = drawn("nougat", 57, 1)
    requests = encoded(built, [requested])
    pieces = list(built.stream_text(requests[0], built.stopping()))
    assert len(pieces) > 10
    assert "".join(pieces) == built.run(requests, built.stopping()).answers[0].text
