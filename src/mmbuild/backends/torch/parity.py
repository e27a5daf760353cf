"""Compares an engine's tokens and distributions with those of a reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmbuild.backends.comparison import Comparison, compared
from mmbuild.backends.torch.engine import Engine
from mmbuild.backends.torch.generate import Stopping, collect, stream
from mmbuild.models.families.processor import Request
from mmbuild.models.families.reference import Continuation


def compare(
    engine: Engine, request: Request, reference: Continuation, stopping: Stopping | None = None
) -> Comparison:
    """Run ``request`` twice through the engine: free-running, and fed the reference's tokens.

    Args:
        engine: A loaded engine.
        request: The engine's encoding of question and images.
        reference: The reference's answer.
        stopping: When the engine's answer ends; None: after as many tokens as the reference's.

    Raises:
        EngineError: MM591, logits of either side are NaN.
    """
    prompts, visual = engine.inputs([request])
    ends = stopping or engine.stopping(len(reference.tokens), ignore_eos=True)
    free = _free_running(engine, prompts, visual, ends)
    return compared(reference, free, _teacher_forced(engine, prompts, visual, reference.tokens))


def _free_running(engine: Engine, prompts: list[list[int]], visual: Tensor, stopping: Stopping) -> list[int]:
    """The engine's free-running greedy tokens, end token included."""
    whole = replace(stopping, repetition=None, with_end_token=True)
    (tokens,) = collect(stream(engine.session, prompts, visual, whole), 1)
    return tokens


def _teacher_forced(
    engine: Engine, prompts: list[list[int]], visual: Tensor, tokens: tuple[int, ...]
) -> Tensor:
    """The engine's logits at each of ``tokens``, float32 [N, vocab] on the CPU."""
    session = engine.session
    rows = [session.prefill(prompts, visual).cpu().clone()]
    for token in tokens[:-1]:
        rows.append(session.decode(torch.tensor([token], device=session.device)).cpu().clone())
    return torch.cat(rows)
