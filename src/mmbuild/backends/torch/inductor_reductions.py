"""Lets Inductor reduce a single row of a few thousand numbers in one pass, as the norms of one token need.

By default it goes over rows of more than 1,024 numbers twice, a part at a time, and the second time reads what it
read before. Where there is one row, nothing else runs meanwhile. With several rows the default is no slower.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

_MOST = 8192
"""Numbers of a row; more do not fit into the registers of a program."""


def in_one_pass(*, wanted: bool) -> AbstractContextManager[Any]:
    """Inductor reduces single rows of up to 8,192 numbers in one pass meanwhile, if it is ``wanted``."""
    if not wanted:
        return nullcontext()
    from torch._inductor.choices import InductorChoices
    from torch._inductor.runtime.hints import ReductionHint
    from torch._inductor.virtualized import V

    class Choices(InductorChoices):
        """Inductor's choices, but for such rows."""

        @staticmethod
        def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
            """As the method of Inductor."""
            if InductorChoices.should_use_persistent_reduction(features, cooperative_reduction):
                return True
            size = features.reduction_numel
            alone = features.numel == 1 and features.get_reduction_hint() == ReductionHint.INNER
            return bool(alone and not cooperative_reduction and size.is_Integer and size <= _MOST)

    handler: AbstractContextManager[Any] = V.set_choices_handler(Choices())
    return handler
