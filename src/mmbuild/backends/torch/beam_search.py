"""Beam search over a session: finds the most likely answer instead of the most likely next token.

Follows transformers' ``GenerationMixin._beam_search`` (5.10 to 5.17). For each prompt, the best ``2 x width``
continuations of all beams are candidates (more with several end tokens). Of those, sequences that end and are among
the best ``width`` are finished; the best ``width`` that do not end keep running. A prompt is done when no running
beam can beat the worst finished one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmbuild.backends.torch.generate import Stopping, check_room, require_numbers, suppress
from mmbuild.backends.torch.logits_processors import SequenceRules, rules_of
from mmbuild.backends.torch.request_limits import require_beams
from mmbuild.backends.torch.session import Session
from mmbuild.base.errors import UsageError

_NEVER = -1e9


@dataclass(frozen=True, slots=True)
class Beams:
    """Options of beam search.

    Attributes:
        width: Beams per prompt, up to the engine's max_beam_width.
        length_penalty: A finished sequence of n tokens scores ``log probability / n ** length_penalty``. None: the
            model's value, else 1.
        early_stopping: Whether a prompt is done as soon as ``width`` sequences have finished. With ``never`` it
            continues while a beam may still win at the maximum length (if length_penalty is above 0). None: the
            model's value, else False.
    """

    width: int
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"the number of beams is {self.width}, but must be 1 or more", code="MM520")


@dataclass(frozen=True, slots=True)
class _Plan:
    """The resolved options of a search."""

    width: int
    length_penalty: float
    early_stopping: bool | str
    stopping: Stopping

    def attainable(self, score: Tensor, length: int) -> Tensor:
        """The best score that a running beam of ``length`` new tokens can still reach."""
        never = self.early_stopping == "never" and self.length_penalty > 0
        final: Tensor = score / (self.stopping.max_new_tokens if never else length) ** self.length_penalty
        return final


@dataclass(slots=True)
class _Prompt:
    """Beams of one prompt.

    Attributes:
        running: Tokens of each running beam.
        scores: Their log probabilities, float32 [width].
        best: Tokens of finished sequences, the best first; empty entries have not finished.
        best_scores: Their scores, float32 [width].
        finished: Which of ``best`` have finished, bool [width].
        rules: Applies the model's generation settings to the log probabilities.
        done: Whether the search is complete.
    """

    running: list[list[int]]
    scores: Tensor
    best: list[list[int]]
    best_scores: Tensor
    finished: Tensor
    rules: SequenceRules | None = None
    done: bool = False


def search(
    session: Session,
    prompts: Sequence[Sequence[int]],
    visual: Tensor,
    stopping: Stopping,
    beams: Beams,
    started: Callable[[], object] = lambda: None,
) -> tuple[list[list[int]], int]:
    """Search the best sequence of each prompt; returns them without end tokens, and the number of steps.

    Args:
        session: The engine's session.
        prompts: As for :meth:`Session.prefill`.
        visual: As for :meth:`Session.prefill`.
        stopping: When sequences end; repetition is not detected.
        beams: Options of the search.
        started: Called when the first logits are available.

    Raises:
        EngineError: MM522, more beams than the engine supports; and as :func:`generate.stream`.
    """
    require_beams(beams.width, session.config.max_beam_width)
    check_room(session, prompts, stopping.max_new_tokens)
    plan, width, count = _plan(beams, stopping), beams.width, len(prompts)
    states = _states(plan, prompts)
    logits = require_numbers(session.prefill(prompts, visual), stopping)
    started()
    session.select(torch.arange(count).repeat_interleave(width))
    logits = logits.repeat_interleave(width, dim=0)
    for length in range(1, stopping.max_new_tokens + 1):
        steps = logits.float().log_softmax(-1).cpu().view(count, width, -1)
        parents = [_advance(state, own, length, plan) for state, own in zip(states, steps, strict=True)]
        if all(state.done for state in states):
            break
        session.select(torch.tensor([row * width + beam for row, own in enumerate(parents) for beam in own]))
        tokens = torch.tensor([beam[-1] for state in states for beam in state.running])
        logits = session.decode(tokens.to(session.device))
    return [_without_end(state.best[0], stopping) for state in states], length


def _plan(beams: Beams, stopping: Stopping) -> _Plan:
    """Resolve ``beams``: options that are None come from the model's settings."""
    fields = stopping.rules.fields if stopping.rules is not None else {}

    def chosen(name: str, default: Any) -> Any:
        given = getattr(beams, name)
        return fields.get(name, default) if given is None else given

    return _Plan(beams.width, chosen("length_penalty", 1.0), chosen("early_stopping", False), stopping)


def _states(plan: _Plan, prompts: Sequence[Sequence[int]]) -> list[_Prompt]:
    stopping, width = plan.stopping, plan.width
    # The search runs on the CPU.
    rules = rules_of(stopping.rules, prompts, stopping.eos_token_ids, stopping.max_new_tokens, "cpu")
    # All beams start with the same prompt, so only one of them may be continued.
    scores = torch.full((width,), _NEVER)
    scores[0] = 0.0
    return [
        _Prompt(
            running=[[]] * width,
            scores=scores,
            best=[[]] * width,
            best_scores=torch.full((width,), _NEVER),
            finished=torch.zeros(width, dtype=torch.bool),
            rules=rules[number] if rules else None,
        )
        for number in range(len(prompts))
    ]


def _advance(state: _Prompt, steps: Tensor, length: int, plan: _Plan) -> list[int]:
    """Extend the beams of one prompt by a token; log probabilities [width, vocab] -> parent of each new beam."""
    if state.done:
        return list(range(plan.width))
    stopping, (width, vocabulary) = plan.stopping, steps.shape
    if state.rules is not None:
        steps = state.rules.shaped(state.running, steps)
    never = torch.tensor(stopping.suppressed_token_ids, dtype=torch.int64, device=steps.device)
    steps = suppress(steps, never)
    keep = min(max(2, 1 + len(stopping.eos_token_ids)) * width, steps.numel())
    scores, places = (state.scores[:, None] + steps).flatten().topk(keep)
    parents = [place // vocabulary for place in places.tolist()]
    continued = [
        [*state.running[parent], place % vocabulary]
        for parent, place in zip(parents, places.tolist(), strict=True)
    ]
    ended = _ended(state, continued, length, stopping)
    _finish(state, continued, scores, ended, length, plan)
    running = scores + ended.float() * _NEVER
    chosen = running.topk(width).indices
    state.running, state.scores = [continued[place] for place in chosen.tolist()], running[chosen]
    _update_done(state, length, plan, stuck=bool(ended.all()))
    return [parents[place] for place in chosen.tolist()]


def _ended(state: _Prompt, continued: list[list[int]], length: int, stopping: Stopping) -> Tensor:
    """Which of the continuations end with their last token, bool [n]."""
    if length == stopping.max_new_tokens:
        return torch.ones(len(continued), dtype=torch.bool)
    by_token = torch.tensor([tokens[-1] in stopping.eos_token_ids for tokens in continued])
    by_string = state.rules.stopped(continued) if state.rules is not None else [False] * len(continued)
    return by_token | torch.tensor(by_string)


def _finish(
    state: _Prompt, continued: list[list[int]], scores: Tensor, ended: Tensor, length: int, plan: _Plan
) -> None:
    """Update the best finished sequences with those of this step that are among its ``width`` best."""
    just = ended & (torch.arange(len(ended)) < plan.width)
    final = scores / length**plan.length_penalty
    final = final + (~just).float() * _NEVER
    merged, finished = torch.cat([state.best_scores, final]), torch.cat([state.finished, just])
    chosen = merged.topk(plan.width).indices
    tokens = [*state.best, *continued]
    state.best = [tokens[place] for place in chosen.tolist()]
    state.best_scores, state.finished = merged[chosen], finished[chosen]


def _update_done(state: _Prompt, length: int, plan: _Plan, *, stuck: bool) -> None:
    """Set ``state.done`` if the search for this prompt is complete."""
    worst = torch.where(state.finished, state.best_scores.min(), _NEVER)
    improvable = bool((plan.attainable(state.scores[:1], length) > worst).any())
    full = plan.early_stopping is True and bool(state.finished.all())
    state.done = stuck or full or not improvable


def _without_end(tokens: list[int], stopping: Stopping) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in stopping.eos_token_ids else tokens
