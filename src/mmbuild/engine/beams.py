"""Beam search over a session: the likeliest whole answer instead of the likeliest next token.

The rules are those of transformers' ``GenerationMixin._beam_search`` with its defaults (5.10 to 5.17), stated for one
prompt: of all continuations of all beams the best ``2 x width`` are looked at (more with several end tokens); those
among the best ``width`` that end are finished, the best ``width`` that do not go on. A prompt is done when no running
beam can beat the worst finished one at the present length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmbuild.engine.config import EngineError
from mmbuild.engine.generate import Stopping, check_room, require_numbers, suppress
from mmbuild.engine.session import Session
from mmbuild.errors import UsageError

_NEVER = -1e9


@dataclass(frozen=True, slots=True)
class Beams:
    """How beams are searched.

    Attributes:
        width: Sequences kept for each prompt, up to the engine's max_beam_width.
        length_penalty: A finished sequence of n tokens scores ``log probability / n ** length_penalty``.
        early_stopping: Whether a prompt is done as soon as ``width`` sequences have finished.
    """

    width: int
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"the number of beams is {self.width}, and must be 1 or more", code="MM520")


@dataclass(slots=True)
class _Prompt:
    """Beams of one prompt.

    Attributes:
        running: Tokens of each running beam.
        scores: Their log probabilities, float32 [width].
        finished: Scores and tokens of finished sequences, the best first.
        improvable: Whether a running beam may still beat a finished sequence.
    """

    running: list[list[int]]
    scores: Tensor
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    improvable: bool = True


def search(
    session: Session,
    prompts: Sequence[Sequence[int]],
    visual: Tensor,
    stopping: Stopping,
    beams: Beams,
    started: Callable[[], object] = lambda: None,
) -> tuple[list[list[int]], int]:
    """The best sequence of each prompt, without its end token, and how many steps the search took.

    Args:
        session: The engine's.
        prompts: As :meth:`Session.prefill` takes them.
        visual: As :meth:`Session.prefill` takes it.
        stopping: When sequences end; repetition is not looked for.
        beams: How beams are searched.
        started: Called when the first logits are there.

    Raises:
        EngineError: More beams are asked for than the engine is built for, or as :func:`generate.stream` does.
    """
    limit = session.config.max_beam_width
    if beams.width > limit:
        raise EngineError(
            f"{beams.width} beams are asked for, and the engine is built for 1 to {limit}",
            code="MM522",
            hint="Ask for fewer, or raise max_beam_width in the recipe",
        )
    check_room(session, prompts, stopping.max_new_tokens)
    width, count = beams.width, len(prompts)
    logits = require_numbers(session.prefill(prompts, visual))
    started()
    session.select(torch.arange(count).repeat_interleave(width))
    logits = logits.repeat_interleave(width, dim=0)
    states = [_Prompt([[]] * width, _first_scores(width)) for _ in range(count)]
    for length in range(1, stopping.max_new_tokens + 1):
        steps = _log_probabilities(logits, stopping).view(count, width, -1)
        parents = [
            _advance(state, own, length, stopping, beams) for state, own in zip(states, steps, strict=True)
        ]
        done = all(not state.improvable or _is_full(state, beams) for state in states)
        if done or length == stopping.max_new_tokens:
            break
        session.select(torch.tensor([row * width + beam for row, own in enumerate(parents) for beam in own]))
        tokens = torch.tensor([beam[-1] for state in states for beam in state.running])
        logits = session.decode(tokens.to(session.device))
    return [_without_end(state.finished[0][1], stopping) for state in states], length


def _first_scores(width: int) -> Tensor:
    # All beams are the same prompt at first: only one of them may be continued.
    scores = torch.full((width,), _NEVER)
    scores[0] = 0.0
    return scores


def _log_probabilities(logits: Tensor, stopping: Stopping) -> Tensor:
    return suppress(logits.float().log_softmax(-1).cpu(), stopping)


def _advance(state: _Prompt, steps: Tensor, length: int, stopping: Stopping, beams: Beams) -> list[int]:
    """Extend one prompt's beams by a token; log probabilities [width, vocab] -> each new beam's parent."""
    width, vocabulary = steps.shape
    keep = min(max(2, 1 + len(stopping.eos_token_ids)) * width, steps.numel())
    best, places = (state.scores[:, None] + steps).flatten().topk(keep)
    last = length == stopping.max_new_tokens
    running: list[tuple[int, list[int], Tensor]] = []
    ended: list[tuple[float, list[int]]] = []
    for rank, (score, place) in enumerate(zip(best, places.tolist(), strict=True)):
        parent, token = divmod(place, vocabulary)
        tokens = [*state.running[parent], token]
        if last or token in stopping.eos_token_ids:
            if rank < width:
                ended.append((float(score / length**beams.length_penalty), tokens))
        elif len(running) < width:
            running.append((parent, tokens, score))
    if state.improvable and not _is_full(state, beams):
        # A stable sort: of equal scores the one that finished first stays.
        state.finished = sorted([*state.finished, *ended], key=lambda item: -item[0])[:width]
    if running:
        state.running = [tokens for _, tokens, _ in running]
        state.scores = torch.stack([score for _, _, score in running])
        attainable = float(state.scores[0] / length**beams.length_penalty)
        worst = state.finished[-1][0] if len(state.finished) == width else _NEVER
        state.improvable = state.improvable and attainable > worst
    return [parent for parent, _, _ in running]


def _is_full(state: _Prompt, beams: Beams) -> bool:
    """Whether nothing more is taken because enough has finished."""
    return beams.early_stopping and len(state.finished) == beams.width


def _without_end(tokens: list[int], stopping: Stopping) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in stopping.eos_token_ids else tokens
