"""Checks a TensorRT-LLM environment against the requirements of a toolchain.

``requirements``  packages and programs that a TensorRT-LLM version requires
``examples``      its example scripts
``toolchain``     all checks of one environment
"""
