"""Quantized forms of a decoder that somebody else trained, beside those of Model Optimizer and llm-compressor."""
