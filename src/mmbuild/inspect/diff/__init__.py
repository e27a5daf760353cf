"""What changed between a build and its current recipe, and between two builds.

``trace``        why actions run, or last ran, down to what changed
``blame``        which lines of a recipe cause a change
``reports``      formats both as text and JSON
``build_diff``   compares two engine directories
"""
