"""Models: their files, weights, prompts and images, and transformers as the reference. It knows of no build.

``families/``          what each family's config means, its weights' names, prompts, tower and reference
``files/``             checks of a model directory's files
``sources/``           where weights come from
``checkpoint/``        TensorRT-LLM's unified checkpoint
``calibration_data/``  samples for calibration

Importing this package reads nothing.
"""
