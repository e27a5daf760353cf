"""What all tests share: where compilers keep their work, and engines compiled once for everybody."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Nothing that collecting the tests imports and makes is garbage; looking for it takes a fifth of the time.
gc.disable()
# Before torch is imported: Inductor and OpenMP read these once.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ROOT / ".mmbuild" / "inductor"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without bytecode, which containers often turn off, each run compiles all tests again, and some processes mmbuild.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests say what they need of the surroundings: a CI service's `CI` publishes to shared stores, a user's configuration
# names toolchains.
for name in [
    name for name in os.environ if name == "CI" or name.startswith(("GITHUB_", "GITLAB_", "MMBUILD_"))
]:
    del os.environ[name]
os.environ["MMBUILD_CONFIG"] = str(ROOT / ".mmbuild" / "no-configuration.yaml")

# A shell that starts `make test` in the background has it ignore interrupts, and all that tests start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402 (after the environment)
from hypothesis import settings  # noqa: E402

from support.examples import QUICK  # noqa: E402

# Two busy cores make any deadline a matter of luck; the same examples every time make a failure repeatable.
settings.register_profile("mmbuild", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("mmbuild"), max_examples=QUICK)
settings.load_profile("mmbuild")

# Minutes each where nothing is compiled yet: with the longest first, all processes of `make test` end together. Those
# that wait (Ray, ranks) come early, while others compile: two that wait at the end leave a core idle.
LONGEST = (
    "backends/torch/distributed/test_engine.py",
    "backends/torch/test_demo_models.py",
    "backends/torch/test_families.py",
    "e2e/test_apply_llava.py",
    "team/ray/test_node_selection.py",
    "e2e/test_exam.py",
    "e2e/test_serve_ranks.py",
    "backends/torch/distributed/test_launch.py",
    "tools/test_fuzz.py",
    "team/ray/test_one_machine.py",
    "backends/torch/test_engine.py",
    "backends/torch/test_calibrated_engines.py",
    "models/files/test_chat_template.py",
    "docs/test_sessions.py",
    "e2e/test_exam_calibrated.py",
    "e2e/test_concurrent_real.py",
    "backends/torch/test_logits_processors.py",
    "backends/torch/test_loading.py",
    "e2e/test_python_api.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order whole files; the tests of a file stay as they are."""
    turn = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path, len(turn)))


def pytest_collection_finish() -> None:
    """Collect garbage of the tests alone, which takes an eighth of their time otherwise."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Leave what is there to the end of the process: pytest looks through all of it five times, for two seconds."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _examples_stay_untouched() -> Iterator[None]:
    """A hard link or another mode is enough for builds of other processes to refuse what they are reading."""
    before = _changed_at()
    yield
    after = _changed_at()
    assert [path for path in before if after.get(path) != before[path]] == []


def _changed_at() -> dict[str, int]:
    """ctime of each file of the demo models, in ns."""
    models = ROOT / "examples" / "models"
    return {str(path): path.stat().st_ctime_ns for path in sorted(models.rglob("*")) if path.is_file()}
