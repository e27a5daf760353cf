"""TensorRT-LLM toolchains: one directory of YAML files per supported version, with the commands that build an engine.

``model``             schema of the files that describe commands
``load``              merges the files of a version and those that it extends
``template``          fills in its templates
``template_context``  names available in templates: numbers of the recipe, facts of the model
``checkpoint_reader`` what a version can read of a checkpoint
``capabilities``      what a version cannot build, and why
``gpu_formats``       number formats that a GPU and layer sizes allow
``memory_model``      predicts the memory of commands from shapes
``commands``          the ordered commands of a resolved recipe
``tasks``             groups of commands that build one artifact
``patches``           edits of third-party code
``script``            the commands as a shell script

:mod:`mmbuild.schema.tensorrt_llm_versions` lists the versions. Nothing here runs a command. Importing this package
reads nothing.
"""
