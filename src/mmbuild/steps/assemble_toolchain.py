"""Step ``assemble`` for backend tensorrt-llm: combines engines, model and code in one engine directory.

Upstream's runner reads the model directory next to the engines (tokenizer, processor, for VILA the whole model), so
the step links all of it. ``engine.json`` records the variables of the build commands, so that the engine can be run
without its recipe.
"""

from __future__ import annotations

from mmbuild.backends.engine_dir import description
from mmbuild.backends.tensorrt_llm.runner.workdir import add_files, link_tree
from mmbuild.core.steps.context import StepContext
from mmbuild.models.files.generation_settings import Reader, not_passed, runner_findings
from mmbuild.steps.assemble import log_findings, read_logged

# The format of engines of this backend has not changed since this version.
_VERSION = 3


def run(context: StepContext) -> None:
    """``params``: ``{"family", "tensor_parallel", "variables", "places", "versions", "files", "generation_config"}``;
    inputs: ``model``, ``llm``, ``visual`` and optionally ``code``.

    Raises:
        SettingsError: MM721 or MM722, the model's generation settings cannot be used or read.
    """
    params = context.params
    for name, source in context.inputs.items():
        link_tree(source, context.out / name)
    add_files(params["files"], context.out)
    variables = params["variables"]
    beams = variables["max_beam_width"] > 1
    reader = Reader(
        variables["vocab_size"], beams=beams, obey=params.get("generation_config", "obey") == "obey"
    )
    reading = read_logged(context.inputs["model"], params["family"], reader)
    settings = reading.require()
    log_findings(runner_findings(reading, beams=beams))
    description.write(
        context.out,
        description.Description(
            family=params["family"],
            backend="tensorrt-llm",
            llm={
                "tensor_parallel": params["tensor_parallel"],
                "variables": variables,
                "places": params["places"],
            },
            visual={"max_batch_size": variables["visual_max_batch_size"]},
            target=dict(context.target),
            toolchain=dict(params["versions"]),
            image_token_id=None,
            eos_token_ids=(),
            version=_VERSION,
            settings_not_applied={**settings.not_applied, **not_passed(settings, beams=beams)},
        ),
    )
