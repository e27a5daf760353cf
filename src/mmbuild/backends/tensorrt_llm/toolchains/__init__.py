"""TensorRT-LLM toolchains: for each supported version one YAML file with the commands that build an engine.

``model``             the form of a file
``load``              reads and checks a file
``template``          fills in its templates
``template_context``  what a template may name: numbers of the recipe, facts of the model
``capabilities``      what a version cannot build, and why
``gpu_formats``       which number formats a GPU and a layer's size allow
``memory_model``      memory of the commands, predicted from shapes
``commands``          a resolved recipe as ordered commands
``tasks``             commands in groups that build one thing
``patches``           edits of upstream's scripts
``script``            commands as a shell script

:mod:`mmbuild.schema.tensorrt_llm_versions` lists the versions. Nothing here runs a command. Importing this package
reads nothing.
"""
