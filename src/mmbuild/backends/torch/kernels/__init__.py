"""Triton kernels of packages for CUDA, as operators of torch that torch.export and Inductor understand.

Importing this package does not import Triton, which torch for CPUs lacks; its modules do.
"""

MOST_ROWS = 64
"""With more rows than this a general matrix product is faster."""
