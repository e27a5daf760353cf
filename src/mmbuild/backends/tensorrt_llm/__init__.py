"""Backend tensorrt-llm: commands of a TensorRT-LLM version, checked by what they leave."""
