"""Sequences in the rows of a session: any row, any company, prompts in parts; each has the logits it has alone."""

import random

import pytest
import torch

from mmbuild.models.errors import EngineError
from support.engines.families import engine, requests
from support.errors import refused

pytestmark = pytest.mark.slow

DECODER_ONLY = [("blip2-opt", 10), ("vila", 1)]
MODELS = [*DECODER_ONLY, ("blip2-t5", 10), ("nougat", 1)]
FORCED = [5, 7, 5, 9, 6, 8]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def alone(built, request):
    """Logits of a request in row 0, along the tokens ``FORCED``."""
    found = [built.session.prefill(*built.inputs([request])).clone()]
    return torch.cat([*found, *(built.session.decode(torch.tensor([token])).clone() for token in FORCED)])


@pytest.mark.parametrize("padded", [False, True], ids=["exact", "as-on-cuda"])
@pytest.mark.parametrize(("family", "seed"), MODELS)
def test_sequences_come_into_any_free_row_and_go_on_in_any_company(family, seed, padded, monkeypatch):
    built, rng = engine(family, seed), random.Random(seed)
    session = built.session
    monkeypatch.setattr(session, "_rounds_rows", padded)
    monkeypatch.setattr(session, "_placed", None)
    requested = requests(built, [3, 9, 1, 6, 4], seed)
    expected = [alone(built, request) for request in requested]
    free = rng.sample(range(built.config.sequences), len(requested))
    waiting, live, done, rows = list(range(len(requested))), {}, 0, [-1]
    while done < len(requested):
        if waiting and (not live or rng.random() < 0.5):
            number = waiting.pop(rng.randrange(len(waiting)))
            row = free.pop()
            live[row] = number, 0
            close(session.prefill(*built.inputs([requested[number]]), rows=[row]), expected[number][:1])
            continue
        if not set(rows) <= set(live) or rng.random() < 0.5:
            rows = rng.sample(sorted(live), rng.randint(1, len(live)))
        steps = [live[row] for row in rows]
        logits = session.decode(torch.tensor([FORCED[step] for _, step in steps]), rows=rows)
        close(logits, torch.stack([expected[number][step + 1] for number, step in steps]))
        for row, (number, step) in zip(rows, steps, strict=True):
            live[row] = number, step + 1
            if step + 1 == len(FORCED):
                del live[row]
                free.append(row)
                done += 1


@pytest.mark.parametrize(("family", "seed"), DECODER_ONLY)
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_prompt_in_parts_gives_what_it_gives_whole_while_other_rows_are_live(family, seed, parts):
    built, rng = engine(family, seed), random.Random(seed)
    session = built.session
    request, other = requests(built, [9, 4], seed)
    expected, beside = alone(built, request), alone(built, other)
    session.prefill(*built.inputs([other]), rows=[3])
    (prompt,), table = built.inputs([request])
    cuts = sorted(rng.sample(range(1, len(prompt)), parts - 1))
    pieces = [prompt[a:b] for a, b in zip([0, *cuts], [*cuts, len(prompt)], strict=True)]
    logits = session.prefill([pieces[0]], table, rows=[1])
    for number, piece in enumerate(pieces[1:]):
        logits = session.extend([piece], table, rows=[1])
        if number < len(FORCED):
            close(session.decode(torch.tensor([FORCED[number]]), rows=[3]), beside[number + 1 : number + 2])
    close(logits, expected[:1])
    for number, token in enumerate(FORCED):
        close(session.decode(torch.tensor([token]), rows=[1]), expected[number + 1 : number + 2])


@pytest.mark.parametrize(("family", "seed"), DECODER_ONLY)
def test_prompts_of_several_sequences_go_on_together(family, seed):
    """Parts of different lengths, from different starts, in rows that are not next to each other."""
    built = engine(family, seed)
    session = built.session
    requested, rows = requests(built, [9, 12, 3], seed), [4, 0, 5]
    expected = torch.cat([alone(built, request)[:1] for request in requested])
    prompts, table = built.inputs(requested)
    session.prefill([prompt[: 2 + number] for number, prompt in enumerate(prompts)], table, rows=rows)
    rest = [prompt[2 + number :] for number, prompt in enumerate(prompts)]
    close(session.extend(rest, table, rows=rows), expected)


@pytest.mark.parametrize(("family", "seed"), [("vila", 1)])
def test_rows_that_the_engine_lacks_or_that_hold_nothing_are_refused(family, seed):
    built = engine(family, seed)
    session, most = built.session, built.config.sequences
    prompts, table = built.inputs(requests(built, [3, 4], seed))
    for rows in ([0], [1, 1], [0, most], [-1, 0]):
        assert str(rows) in refused(EngineError, "MM511", session.prefill, prompts, table, rows=rows).message
    session.prefill(prompts, table, rows=[2, 0])
    session._caches.started[1] = False
    refused(EngineError, "MM509", session.decode, torch.tensor([5]), rows=[1])
    refused(EngineError, "MM509", session.extend, prompts[:1], table, rows=[1])
    longest = [[5] * built.config.max_input_len] * 2
    for _ in range(built.config.max_seq_len // built.config.max_input_len):
        if (
            max(session._caches.lengths[0], session._caches.lengths[2]) + len(longest[0])
            > built.config.max_seq_len
        ):
            break
        session.extend(longest, table, rows=[2, 0])
    refused(EngineError, "MM510", session.extend, longest, table, rows=[2, 0])


@pytest.mark.parametrize(("family", "seed"), [("nougat", 1), ("blip2-t5", 10)])
def test_prompts_of_an_encoder_decoder_cannot_be_extended(family, seed):
    built = engine(family, seed)
    prompts, visual = built.inputs(requests(built, [3], seed))
    built.session.prefill(prompts, visual)
    assert "encoder-decoder" in refused(EngineError, "MM511", built.session.extend, prompts, visual).message
