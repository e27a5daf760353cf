"""Checks this host and its environments against the requirements of builds.

``hardware``             GPUs, memory, disk
``software``             mmbuild's Python, torch, git, MPI, containers, the Python of TensorRT
``compiler``             whether an AOTInductor package can be built and loaded, by running ``compile_probe``
``recipe_requirements``  what recipes need
``report``               selects the checks
``render``               prints them

The checks of a TensorRT-LLM environment are in :mod:`mmbuild.backends.tensorrt_llm.checks`. Checks change nothing.
Importing this package reads nothing.
"""
