"""Stand-ins for TensorRT-LLM, TensorRT and the driver, and cases and checks of their commands."""
