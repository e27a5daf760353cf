"""Compares what a TensorRT-LLM command left with what the recipe requires.

Several faults of these commands exit with 0: a rank that is not written, a prompt table of another size, a
quantization that did not happen. Everything here reads plain files and imports neither TensorRT nor torch.

``check``                        the findings of one command
``expectations``                 what a command must leave, from the recipe
``log_patterns``                 known lines in a command's output
``rules.yaml``, ``tensors.yaml`` what each command of each version must leave; ``model`` has the form
"""
