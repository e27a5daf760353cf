"""Checks the output of TensorRT-LLM commands against the recipe.

Several failures of these commands exit with 0: a missing rank, a prompt table of the wrong size, a quantization that
did not happen. The checks read plain files and import neither TensorRT nor torch.

``check``         checks the output of one command
``expectations``  the expected output of a command, derived from the recipe
``files``         reads JSON files and safetensors headers
``log_patterns``  known lines in a command's log
``model``         schema of ``outputs.yaml`` of a version, ``tensors.yaml`` and ``explanations.yaml``
"""
