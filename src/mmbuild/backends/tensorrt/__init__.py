"""TensorRT visual engines, built and run by a separate program in a Python that has TensorRT.

``export``       exports a visual module as ONNX
``program``      the program: builds engines from ONNX and runs them; does not import mmbuild
``interpreter``  selects the Python that runs the program
``child``        runs the program as a child process and converts its refusals to errors
``engine``       builds and runs engines for the rest of mmbuild
"""
