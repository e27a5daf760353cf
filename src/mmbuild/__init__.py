"""mmbuild: recipes in, vision-language inference engines out.

    >>> import mmbuild
    >>> (recipe,) = mmbuild.load_recipe("recipes/demo/llava-int4.yaml")
    >>> mmbuild.apply(mmbuild.plan([recipe]))
    >>> mmbuild.Engine.load("build/llava-shapes-int4").generate(images=["a.png"], prompts=["what colour?"])

Nothing heavy is imported until one of the names is used.
"""

from __future__ import annotations

from mmbuild._version import __version__

TYPE_CHECKING = False  # instead of importing typing, during which Ctrl-C could not be handled

if TYPE_CHECKING:
    from mmbuild.api import apply, load_recipe, plan
    from mmbuild.backends.torch import Engine
    from mmbuild.inspect.compare_builds import compare

__all__ = ["Engine", "__version__", "apply", "compare", "load_recipe", "plan"]

_LAZY = {
    "Engine": "mmbuild.backends.torch",
    "apply": "mmbuild.api",
    "compare": "mmbuild.inspect.compare_builds",
    "load_recipe": "mmbuild.api",
    "plan": "mmbuild.api",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'mmbuild' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
