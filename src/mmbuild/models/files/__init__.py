"""Validation of a model directory's small files and of the headers of its weights."""
