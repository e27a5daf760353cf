"""TensorRT visual engines: built and run by a program in an interpreter that has TensorRT.

``export``       a visual module as ONNX
``program``      the program: ONNX to engine, engine to features; imports nothing of mmbuild
``interpreter``  which interpreter runs it
``child``        the program as a child process, its refusals as errors
``engine``       building and running as the rest of mmbuild knows them
"""
