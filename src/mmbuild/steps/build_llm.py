"""Step ``build_llm`` for the torch backend: compiles packages (``*.pt2``) for given shapes and limits.

It has no input artifact: the packages depend on architecture, layout and target, never on weight values.
"""

from __future__ import annotations

import json

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: an :class:`~mmbuild.backends.torch.config.EngineConfig` as JSON.

    Raises:
        EngineError: The engine or its target does not support the quantization or the rope scaling, or compilation
            fails.
    """
    from mmbuild.backends.torch.calibrated_linear import check_target
    from mmbuild.backends.torch.config import from_json
    from mmbuild.backends.torch.distributed.collectives import compiling
    from mmbuild.backends.torch.export import compile_package, export_llm, outside_names, require_outside

    config = from_json(context.params)
    check_target(config, context.target)
    context.progress("export", 0.0)
    programs = export_llm(config, str(context.target["device"]))
    for done, (name, program) in enumerate(programs.items()):
        context.progress(f"compile {name}", (done + 0.5) / (len(programs) + 0.5))
        package = context.out / f"{name}.pt2"
        with compiling(config.tensor_parallel):
            compile_package(program, package, context.target)
        require_outside(package, outside_names(config, name, str(context.target["device"])))
    text = json.dumps(config.to_json(), indent=2, sort_keys=True)
    (context.out / "llm.json").write_text(text + "\n", encoding="utf-8")
