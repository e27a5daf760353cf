"""A third backend, as a distribution of its own would have it: one module, and one row that names :data:`BACKEND`.

Its engine is a text file that repeats the recipe's family.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbuild.backends.base import Answer, Answers, OwnServer, Requirements, present
from mmbuild.backends.engine_dir.description import Description, write
from mmbuild.backends.lowering.downloads import download
from mmbuild.base.checks import Check, Group
from mmbuild.base.diagnostics import Violation
from mmbuild.core.graph.action import RecipeGraph
from mmbuild.core.graph.keys import make_action
from mmbuild.core.steps.registry import StepSpec


def write_engine(context):
    """The step: an engine directory that says what it was built from."""
    (context.out / "engine.txt").write_text(context.params["family"])
    description = Description(
        family=context.params["family"],
        backend="toy",
        llm={},
        visual={},
        target={"device": "cpu"},
        toolchain={"toy": "1.0"},
        image_token_id=None,
        eos_token_ids=(),
    )
    write(context.out, description)


class ToyBackend:
    name = "toy"
    steps = {"toy_engine": StepSpec("toy_engine", "1", f"{__name__}:write_engine", backend="toy")}

    def check(self, variant):
        if variant.recipe.engine.tensor_parallel > 1:
            yield Violation("MM199", ("engine.tensor_parallel",), "toys have one rank", "set it to 1")

    def cacheable(self, variant):
        return True

    def lower(self, variant, context):
        fetched = download(variant, "model", 0, context)
        engine = make_action(
            label=f"{variant.name}/toy",
            step="toy_engine",
            version=self.steps["toy_engine"].version,
            params={"family": variant.facts.family},
            inputs={"model": fetched.definition_key},
            toolchain={"toy": "1.0"},
        )
        return RecipeGraph(variant.name, (fetched, engine), engine.definition_key)

    def environment(self, variant):
        return "toy 1.0"

    def environment_packages(self, actions):
        return {}

    def environment_facts(self, variant):
        return {"tag": "toy"}

    def require_ready(self, plan):
        pass

    def requirements(self, variants, device):
        return Requirements(gpus=3)

    def host_checks(self, variants, sm, config):
        yield Group("toys", (Check("toy box", "ok", "full"),))

    def open(self, build, description, report):
        return ToyRunner(build)

    def compatibility(self, build, description):
        yield Check("toy", "ok", "1.0", "1.0")

    def script(self, variants):
        return "".join(f"play build/{variant.name}\n" for variant in variants)


@dataclass(frozen=True)
class ToyRunner:
    build: Path
    run_options = frozenset(("--prompt", "--json"))
    verify_options = frozenset(())
    has_own_question = False
    compares = False
    own_server = OwnServer("toy-serve")

    def load(self):
        raise AssertionError("toys are not compared")

    def remarks(self, *, ignore_generation_config):
        yield "note: a toy"

    def run(self, request, show):
        family = (self.build / "engine.txt").read_text()
        answers = (Answer(images, prompt, (f"{family}: {prompt}",)) for images, prompt in request.pairs)
        present(Answers(answers), request, show)

    def verify(self, request, compare):
        return ("toys are always right",)


BACKEND = ToyBackend()
