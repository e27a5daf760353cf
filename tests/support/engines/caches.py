"""What an overflow leaves in the caches of a session."""

from __future__ import annotations

import math

from mmbuild.backends.torch.session import Session


def overflow(session: Session) -> None:
    """NaN in every slot of every row, as if sequences of the greatest length had been there."""
    caches = session._caches
    for tensors, written in ((caches._own, caches._written), (caches._cross, caches._written_cross)):
        for cache in tensors:
            cache.fill_(math.nan)
            written[:] = [cache.shape[2] - 1] * len(written)
