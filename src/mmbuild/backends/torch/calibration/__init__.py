"""Calibrated quantization: runs the whole vision-language model on samples and measures its LLM."""
