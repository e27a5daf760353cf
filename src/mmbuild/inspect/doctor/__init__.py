"""Checks of this host and its environments against what builds need.

``hardware``             GPUs, memory, disk
``software``             our Python, torch, git, MPI, containers, TensorRT's interpreter
``compiler``             whether an AOTInductor package can be built and loaded; ``compile_probe`` is what it runs
``recipe_requirements``  what recipes need
``report``               which checks are made
``render``               prints them

Checks of a TensorRT-LLM environment are in :mod:`mmbuild.backends.tensorrt_llm.checks`. Checks change nothing.
Importing this package reads nothing.
"""
