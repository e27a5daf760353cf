"""Validation of a whole model: whether config, tokenizer, templates and weights agree with each other and a plan."""
