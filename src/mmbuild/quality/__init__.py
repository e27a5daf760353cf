"""What an engine's answers are worth beside those of the unquantized model: gates, reports, builds side by side.

Plain data in and out: nothing here imports torch. ``steps/measure.py`` makes the measurements.
"""
