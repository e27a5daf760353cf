"""Programs that stand in for TensorRT-LLM's commands.

They take the recorded flags and nothing else (tests/contracts), write products of the right form with hardly any data
in them, and fail on request in the ways that TensorRT-LLM's programs were read to fail. They share no code with
mmbuild: what they know of a model they read in its config.json.

``main``      one command
``models``    a model's config.json
``convert``   converters and the quantizer
``build``     trtllm-build and enc_dec/build.py
``visual``    the visual builder
``ask``       run.py
``faults``    ways to fail
``install``   all of them as files that can be started
"""
