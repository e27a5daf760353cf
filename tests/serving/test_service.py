"""A request's body says how the engine samples."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mmbuild.models.families.processor import Request
from mmbuild.serving.errors import ProtocolError
from mmbuild.serving.pictures import PicturePolicy
from mmbuild.serving.protocol import Chat, Completion
from mmbuild.serving.service import Service, prepared
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


def test_pictures_that_have_no_room_are_not_read(monkeypatch) -> None:
    def read(*_: Any) -> bytes:
        raise AssertionError("a picture was read")

    monkeypatch.setattr("mmbuild.serving.service.read_picture", read)
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "user", "content": [picture, picture]}, {"role": "user", "content": [picture]}]
    body = json.dumps({"messages": messages}).encode()
    with pytest.raises(ProtocolError) as error:
        prepared(FakeEngine().processor, PicturePolicy(most=2), "numbers", body, Chat)
    assert error.value.code == "MM876"
