"""Checkpoints of backend hf in vLLM, and in transformers beside it."""
