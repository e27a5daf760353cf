"""Addresses of models on the hub are recognized in the forms that people copy."""

from __future__ import annotations

import pytest

from mmbuild.models.sources.model_addresses import hub_address

WRITTEN = "write `source: hf://llava-hf/llava-1.5-7b-hf`"


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/llava-hf/llava-1.5-7b-hf.git",
        "https://huggingface.co/llava-hf/llava-1.5-7b-hf/",
        "git@hf.co:llava-hf/llava-1.5-7b-hf.git",
        "git@hf.co:llava-hf/llava-1.5-7b-hf",
        "HF://llava-hf/llava-1.5-7b-hf",
        "hf:/llava-hf/llava-1.5-7b-hf",
        "hf:llava-hf/llava-1.5-7b-hf@main",
        "HTTPS://huggingface.co/llava-hf/llava-1.5-7b-hf",
    ],
)
def test_addresses_that_people_copy(address: str) -> None:
    assert hub_address(address) == WRITTEN


@pytest.mark.parametrize(
    "address",
    [
        "git@github.com:haotian-liu/LLaVA.git",
        "https://github.com/haotian-liu/LLaVA.git",
        "hf://",
        "models/llava.git",
    ],
)
def test_other_addresses(address: str) -> None:
    assert hub_address(address) is None
