"""Step ``verify`` for backend tensorrt-llm: runs the recipe's questions through upstream's runner.

It checks that the engine loads, runs on its ranks and answers. It compares nothing: a comparison needs tokens, and
the runner returns text.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmbuild.backends.engine_dir import description as layout
from mmbuild.backends.tensorrt_llm.runner.infer import InferenceRequest, infer, takes_images
from mmbuild.base.progress import Amount
from mmbuild.config.model import ToolchainEnvironment
from mmbuild.core.steps.context import StepContext

REPORT = "report.json"


def run(context: StepContext) -> None:
    """``params``: ``{"prompts", "max_new_tokens"}``; input ``engine``; locators: ``environment`` and images.

    Raises:
        CommandError: The runner failed or returned no answer.
    """
    environment = ToolchainEnvironment.model_validate_json(context.locators["environment"])
    description = layout.read(context.inputs["engine"])
    named = sorted(
        (item for item in context.locators.items() if item[0] != "environment"),
        key=lambda item: (len(item[0]), item[0]),
    )
    images: list[Path | None] = [Path(path) for _, path in named] if takes_images(description) else []
    entries = []
    requested = [
        (image, prompt) for image in images or [None] for prompt in context.params["prompts"] or [None]
    ]
    for number, (image, prompt) in enumerate(requested):
        context.progress(
            prompt or "the runner's default question", Amount(number, len(requested), "questions")
        )
        request = InferenceRequest(prompt, (image,) if image else (), context.params["max_new_tokens"])
        result = infer(
            context.inputs["engine"],
            description,
            environment,
            request,
            Path.cwd() / f"tree{number}",
            gpus=context.gpus,
        )
        entries.append(
            {
                "image": image.name if image else None,
                "prompt": prompt,
                "answer": result.texts[0],
            }
        )
    context.progress("answered", Amount(len(entries), len(requested), "questions"))
    report = {
        "version": 1,
        "summary": {"questions": len(entries), "compared": False, "toolchain": dict(description.toolchain)},
        "questions": entries,
    }
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    (context.out / REPORT).write_text(text, encoding="utf-8")
