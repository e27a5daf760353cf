"""TensorRT-LLM toolchains: for each supported version one YAML file that says which commands build an engine.

``versions``   which versions there are, and why another one is refused
``model``      the form of a file
``load``       a file read and judged
``template``   how its templates are filled in
``variables``  what a template may name: numbers of the recipe, facts of the model
``support``    what a version cannot build, and why
``commands``   a resolved recipe as ordered commands
``script``     commands as a shell script

Nothing here runs a command. Importing this package reads nothing.
"""
