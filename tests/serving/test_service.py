"""A request's body says how the engine samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmbuild.models.families.processor import Request
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.protocol import Completion
from mmbuild.serving.service import Service
from support.serving.fakes import FakeEngine

LARGEST = (1 << 62) - 1


def job(choice: int, **body: Any) -> Any:
    loop: Any = None  # only used when a job is submitted
    service = Service(FakeEngine(), loop, "numbers", PicturePolicy())
    asked = Completion.model_validate({"prompt": "1 2", **body})
    return service.job(asked, Request((1, 2), torch.empty(0)), choice, print, lambda: None)


@pytest.mark.parametrize(("seed", "seeds"), [(5, [5, 6, 7]), (LARGEST, [LARGEST, 0, 1])])
def test_each_choice_has_the_next_seed_and_the_largest_is_followed_by_0(seed: int, seeds: list[int]) -> None:
    made = [job(choice, n=3, temperature=1.0, seed=seed).sampling.seed for choice in range(3)]
    assert made == seeds


def test_choices_without_a_temperature_need_no_seed() -> None:
    assert [job(choice, n=2, seed=LARGEST).sampling.seed for choice in range(2)] == [0, 0]
