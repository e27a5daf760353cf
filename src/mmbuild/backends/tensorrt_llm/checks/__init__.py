"""Checks of a TensorRT-LLM environment against what a toolchain needs.

``model``         one check
``versions``      versions against specifiers, and what our own extras require
``requirements``  what a TensorRT-LLM version requires to be installed
``examples``      its example scripts
``toolchain``     all of it for one environment
"""
