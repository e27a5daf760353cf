"""Models: their files, weights, prompts and images, and transformers as the reference. Independent of builds.

``families/``          per family: meaning of the config, names of weights, prompts, tower and reference
``files/``             validation of a model directory's files
``sources/``           sources of weights
``checkpoint/``        TensorRT-LLM's unified checkpoint
``calibration_data/``  samples for calibration

Importing this package reads no files.
"""
