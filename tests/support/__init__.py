"""What several tests share, by subject."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
"""On PYTHONPATH of processes that import this package."""
