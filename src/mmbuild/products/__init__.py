"""What a TensorRT-LLM command left behind, held against what the recipe asks for.

Several faults of these commands exit with 0: a rank that is not written, a prompt table of another size, a
quantization that did not happen. Everything here reads plain files and imports neither TensorRT nor torch.

- :mod:`mmbuild.products.check`: the findings of one command.
- :mod:`mmbuild.products.logs`: known lines in what the command said.
- ``rules.yaml``, ``tensors.yaml``: what each command of each version must leave; the form is in
  :mod:`mmbuild.products.model`.
"""
