"""One training loop for the demo models: phases, a schedule, and CUDA graphs where there is a GPU.

The models are so small that a GPU waits for launches; a captured step has none. What is captured must not
ask the GPU for a value, so the families build their attention masks themselves (:func:`causal_mask`):
transformers looks at masks that it is given or makes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor]
"""From the rows picked, int64 [batch], to the loss, a scalar."""
WARM_UP, FINAL = 0.04, 1e-3
LOOK_EVERY = 20


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training.

    Attributes:
        share: Of the whole training, 0 to 1.
        losses: Taken in turn, one a step.
        pool: Rows of training data to pick from.
        batch: Rows a step.
    """

    share: float
    losses: tuple[Loss, ...]
    pool: int
    batch: int


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: ``steps``, or ``minutes`` where those are over earlier. The schedule follows
    whichever is further on."""

    steps: int
    minutes: float

    def progress(self, step: int, started: float) -> float:
        """0 to 1."""
        return min(1.0, max(step / self.steps, (time.monotonic() - started) / (60 * self.minutes)))


def causal_mask(rows: Tensor) -> Tensor:
    """Additive mask [1, 1, length, length] for ``rows`` [batch, length, width], in their dtype and place."""
    length = rows.shape[1]
    late = torch.ones(length, length, dtype=torch.bool, device=rows.device).triu(1)
    return _additive(late, rows.dtype)[None, None]


def padding_mask(present: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [batch, 1, 1, length] that hides the places where ``present`` [batch, length] is false."""
    return _additive(~present, dtype)[:, None, None]


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of ``logits`` [..., length, vocabulary] where ``labels`` [..., length] is not -100."""
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100)


def train(
    model: nn.Module, phases: tuple[Phase, ...], budget: Budget, *, lr: float, seed: int,
    watch: Callable[[], str] = str,
) -> int:  # fmt: skip
    """AdamW with warm-up and cosine; bfloat16 autocast on a GPU.

    Args:
        model: On its device, in float32; changed in place.
        phases: Their shares add up to 1.
        budget: When to end.
        lr: Highest learning rate.
        seed: Of the rows picked.
        watch: Called now and then; what it says is printed.

    Returns:
        The steps made.
    """
    model.eval()  # no dropout, and no layer drop, for which some models ask the host a random number
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(lr, device=device) if on_gpu else lr, betas=(0.9, 0.98),
        weight_decay=0.05, fused=on_gpu, capturable=on_gpu,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    started, step, watched = time.monotonic(), 0, 0.0
    ends = [sum(phase.share for phase in phases[: i + 1]) for i in range(len(phases))]
    for phase, end in zip(phases, ends, strict=True):
        stepper = [_stepper(loss, model, optimizer, device, phase.batch) for loss in phase.losses]
        last = end == ends[-1]
        while (progress := budget.progress(step, started)) < (1.0 if last else end):
            _set_rate(optimizer, lr * _schedule(progress))
            pick = torch.randint(phase.pool, (phase.batch,), generator=generator)
            loss = stepper[step % len(stepper)](pick)
            step += 1
            if step % LOOK_EVERY == 0 or not on_gpu:
                value = float(loss)  # also waits for the GPU, so that the clock tells the truth
                if progress >= watched:
                    watched += 0.08
                    seconds = time.monotonic() - started
                    print(
                        f"step {step} {progress:.0%} loss {value:.4f} {seconds:.0f} s {watch()}", flush=True
                    )
    return step


def _schedule(progress: float) -> float:
    if progress < WARM_UP:
        return FINAL + (1 - FINAL) * progress / WARM_UP
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _stepper(
    loss: Loss, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, batch: int
) -> Callable[[Tensor], Tensor]:
    def step(pick: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
            value = loss(pick)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.detach()

    return _captured(step, device, batch) if device.type == "cuda" else step


def _captured(
    step: Callable[[Tensor], Tensor], device: torch.device, batch: int
) -> Callable[[Tensor], Tensor]:
    rows = torch.zeros(batch, dtype=torch.int64, device=device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # lazy initialization (of the optimizer, of libraries) cannot be captured
            rows.copy_(torch.arange(batch))
            step(rows)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step(rows)

    def replay(pick: Tensor) -> Tensor:
        rows.copy_(pick)
        graph.replay()
        return value

    return replay


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(
        hidden, torch.finfo(dtype).min
    )
