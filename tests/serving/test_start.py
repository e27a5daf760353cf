"""What a server knows of its engine before it is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mmbuild.serving.start import most_pictures


@pytest.mark.parametrize(
    ("encoder", "cross", "rows", "length", "features", "count"),
    [
        (None, False, 8 * 576, 1024, 576, 1),
        (None, False, 4 * 196, 4096, 196, 4),
        ({}, False, 32, 64, 32, 1),
        ({"layers": 1}, True, 64, 40, 32, 1),
        (None, True, 588, 1, 588, 1),  # pages are not in the prompt
        (None, False, 0, 64, 32, 1),
    ],
)
def test_pictures_that_a_prompt_has_room_for(encoder, cross, rows, length, features, count) -> None:
    description: Any = SimpleNamespace(
        llm={
            "encoder": encoder,
            "llm": {"cross_attention": cross},
            "max_multimodal_len": rows,
            "max_input_len": length,
        },
        visual={"num_visual_features": features},
    )
    assert most_pictures(description) == count
