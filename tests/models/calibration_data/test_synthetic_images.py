"""Pictures drawn where a recipe names no data."""

from __future__ import annotations

import numpy as np

from mmbuild.models.calibration_data.synthetic_images import questions


def test_a_seed_gives_the_same_pictures_and_each_is_another() -> None:
    first, again = (list(questions((24, 36), ("a", "b"), 5, seed=3)) for _ in range(2))
    assert [prompt for _, prompt in first] == ["a", "b", "a", "b", "a"]
    arrays = [np.asarray(picture) for picture, _ in first]
    assert all(array.shape == (24, 36, 3) for array in arrays)
    assert all((array == np.asarray(other)).all() for array, (other, _) in zip(arrays, again, strict=True))
    assert len({array.tobytes() for array in arrays}) == 5
    assert min(array.std() for array in arrays) > 1, "a picture of one colour calibrates nothing"
