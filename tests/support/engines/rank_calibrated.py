"""Sessions over calibrated checkpoints whose packages were never compiled: the layers themselves, in every rank.

What Inductor makes of layers and of sums over ranks other tests look at. These cost seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from mmbuild.backends.torch import packages
from mmbuild.backends.torch.config import EngineConfig, from_json
from mmbuild.backends.torch.distributed.process_group import connect
from mmbuild.backends.torch.export import WithWeights
from mmbuild.backends.torch.rank_worker import serve_commands
from mmbuild.backends.torch.session import Session
from mmbuild.backends.torch.weights import check_weights, rank_files

TARGET = {"device": "cpu", "sm": None, "isa": "avx2"}


def session_of(config: EngineConfig, checkpoint: Path, rank: int) -> Session:
    """A real session of one rank; its packages are modules over the session's own weights and caches."""

    def load_package(path: Path, device: str) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        package, model = packages.table(config)[path.stem], packages.one_layer_model(config, "plain", device)
        module = WithWeights(package.module(model), package.method, package.names(model))

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            outputs = module(*inputs)
            return list(outputs) if isinstance(outputs, tuple) else [outputs]

        return run

    files = rank_files(checkpoint, config, rank)
    check_weights(files, config)
    with mock.patch("mmbuild.backends.torch.bound_packages.load_package", load_package):
        return Session(config, Path("nowhere"), files, TARGET)


def answer(session: Session, prompt: Sequence[int], forced: Sequence[int]) -> list[list[float]]:
    """Logits [steps, vocab] after a prompt with random visual features, along ``forced`` tokens."""
    table = session.empty_prompt_table()
    table += torch.randn(table.shape, generator=torch.Generator().manual_seed(3)).to(table.dtype)
    rows = [session.prefill([list(prompt)], table).clone()]
    rows += [session.decode(torch.tensor([token])).clone() for token in forced]
    return torch.cat(rows).tolist()


def answers(jobs: Sequence[Mapping[str, Any]]) -> None:
    """What two ranks answer: ``jobs`` hold ``config``, ``checkpoint``, ``prompt`` and ``forced``."""
    world = connect(2, "cpu")
    lines = []
    for job in jobs:
        config, checkpoint = from_json(job["config"]), Path(job["checkpoint"])
        session = world.agree(lambda c=config, p=checkpoint: session_of(c, p, world.rank))
        lines.append(answer(session, job["prompt"], job["forced"]))
    if world.rank == 0:
        print(json.dumps(lines))
    else:
        serve_commands(world, None)
