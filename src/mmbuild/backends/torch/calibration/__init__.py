"""Quantization that is fitted on data: the whole vision-language model looks at pictures, its LLM is measured."""
