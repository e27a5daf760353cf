"""Backend hf: Hugging Face model directories in the compressed-tensors format, for vLLM, SGLang and transformers.

``forms.py`` says how each quantization is stored, ``sites.py`` which layers share inputs, ``arithmetic.py`` computes
stored values, ``layer.py`` quantizes one layer and ``write.py`` all of them. ``consumers/`` holds what each server's
version loads.
"""
