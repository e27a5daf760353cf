"""assemble for backend tensorrt-llm: engines, model and code become one engine directory.

Upstream's runner reads the model's directory beside the engines (tokenizer, processor, for VILA the whole model), so
all of it is there, as links. ``engine.json`` keeps what the commands were made from, so that the engine can be asked
without its recipe.
"""

from __future__ import annotations

from mmbuild.engine import layout
from mmbuild.running.workplace import add_files, put
from mmbuild.steps.base import StepContext


def run(context: StepContext) -> None:
    """``params``: ``{"family", "tensor_parallel", "variables", "places", "versions", "files"}``; inputs: ``model``,
    ``llm``, ``visual`` and where there is some ``code``.
    """
    params = context.params
    for name, source in context.inputs.items():
        put(source, context.out / name)
    add_files(params["files"], context.out)
    variables = params["variables"]
    layout.write(
        context.out,
        layout.Description(
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
        ),
    )
