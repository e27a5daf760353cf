"""How many random examples a property is tried with."""

from hypothesis import settings

QUICK = 20
"""At most as many in `make check`, by `--hypothesis-profile quick`; `make test` tries all."""


def examples(count: int) -> int:
    """``count``, or at most :data:`QUICK` with that profile. For decorators: the profile is known by then."""
    return min(count, QUICK) if settings().max_examples == QUICK else count
