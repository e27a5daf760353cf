"""Readers of the small files of a model directory and of the headers of its weights."""
