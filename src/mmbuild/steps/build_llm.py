"""Step ``build_llm`` for the torch backend: compiles packages (``*.pt2``) for given shapes and limits.

It has no input artifact: the packages depend on architecture, layout and target, never on weight values.
"""

from __future__ import annotations

import json
from functools import partial

from mmbuild.core.steps.context import StepContext


def run(context: StepContext) -> None:
    """``params``: an :class:`~mmbuild.backends.torch.config.EngineConfig` as JSON.

    Raises:
        EngineError: The engine or its target does not support the quantization or the rope scaling, or compilation
            fails.
    """
    from mmbuild.backends.torch import packages
    from mmbuild.backends.torch.calibrated_linear import check_target
    from mmbuild.backends.torch.compile_pool import Packages, compile_all
    from mmbuild.backends.torch.config import from_json
    from mmbuild.backends.torch.distributed.collectives import compiling
    from mmbuild.backends.torch.export import export_package

    config = from_json(context.params)
    check_target(config, context.target)
    device = str(context.target["device"])
    programs = {name: partial(export_package, config, name, device) for name in packages.table(config)}
    compiled = Packages(programs, context.out, context.target, partial(compiling, config.tensor_parallel))
    compile_all(compiled, context.cores, context.progress)
    text = json.dumps(config.to_json(), indent=2, sort_keys=True)
    (context.out / "llm.json").write_text(text + "\n", encoding="utf-8")
