"""What all tests share: where compilers keep their work, and engines compiled once for everybody."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Before torch is imported: Inductor and OpenMP read these once.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ROOT / ".mmbuild" / "inductor"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402 (after the environment)

# Two busy cores make any deadline a matter of luck; the same examples every time make a failure repeatable.
settings.register_profile("mmbuild", deadline=None, derandomize=True)
settings.load_profile("mmbuild")
