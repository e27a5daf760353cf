"""TensorRT-LLM's unified checkpoint: ``config.json`` and ``rank<R>.safetensors``."""
