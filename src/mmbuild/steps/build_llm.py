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
    from mmbuild.backends.torch.compile_pool import compile_all
    from mmbuild.backends.torch.config import from_json

    config = from_json(context.params)
    check_target(config, context.target)
    compile_all(config, context.out, context.target, context.cores, context.progress)
    text = json.dumps(config.to_json(), indent=2, sort_keys=True)
    (context.out / "llm.json").write_text(text + "\n", encoding="utf-8")
