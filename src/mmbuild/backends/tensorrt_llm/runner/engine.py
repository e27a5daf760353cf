"""Runs an engine of backend tensorrt-llm: starts upstream's runner once per pair."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmbuild.backends.base import Answer, Answering, Answers, OwnServer, RunRequest, VerifyRequest, present
from mmbuild.backends.engine_dir.description import Description
from mmbuild.backends.tensorrt_llm.runner.infer import InferenceRequest, InferenceResult, infer
from mmbuild.backends.tensorrt_llm.toolchains.model import Mode
from mmbuild.base.errors import MmbuildError
from mmbuild.base.gpu import visible_gpus
from mmbuild.config.load import load
from mmbuild.config.model import ToolchainEnvironment
from mmbuild.models.errors import EngineError
from mmbuild.models.files.generation_settings import not_passed_text


@dataclass(frozen=True, slots=True)
class UpstreamRunner:
    """See :class:`mmbuild.backends.base.Runner`. Upstream's runner decodes greedily, or with as many beams as the
    engine was built for; its accuracy check uses its own question."""

    build: Path
    description: Description
    report: Callable[[str], None]
    run_options: frozenset[str] | None = frozenset(
        ("--image", "--prompt", "--together", "--max-new-tokens", "--profile", "--json")
    )
    verify_options: frozenset[str] | None = frozenset(("--store",))
    has_own_question: bool = True
    compares: bool = False

    @property
    def own_server(self) -> OwnServer:
        """TensorRT-LLM's."""
        return OwnServer(f"trtllm-serve serve {self.build}")

    def load(self) -> Answering:
        """Not possible: upstream's runner is a program.

        Raises:
            EngineError: MM764.
        """
        raise EngineError(
            f"`{self.build}` has backend {self.description.backend}, whose engines are not loaded into this process",
            code="MM764",
            hint="`mmbuild run` runs it with TensorRT-LLM's runner",
        )

    def remarks(self, *, ignore_generation_config: bool) -> Iterable[str]:
        """Model settings that the runner does not apply (MM725)."""
        for name, value in self.description.settings_not_applied.items():
            yield f"warning: the model sets {not_passed_text(name, value)} [MM725]"

    def run(self, request: RunRequest, show: str) -> None:
        """Run each pair; answers are shown as they arrive."""
        from mmbuild.models.images import require_headers

        require_headers(
            request.pairs
        )  # before upstream's runner, which takes a minute to load a large engine
        facts = {"toolchain": dict(self.description.toolchain)}
        present(Answers(self._answers(request), facts=facts), request, show)

    def verify(self, request: VerifyRequest, compare: str) -> Iterable[str]:
        """Upstream's own accuracy check: its question about its image, compared with the known answer."""
        result = self._infer(self._environment(), InferenceRequest(mode="check_accuracy"))
        self.report(
            "the accuracy check of TensorRT-LLM's runner passed; nothing was compared with transformers"
        )
        return result.texts

    def _answers(self, request: RunRequest) -> Iterator[Answer]:
        mode: Mode = "profile" if request.show == "profile" else "run"
        environment = self._environment()
        for images, prompt in request.pairs:
            question = InferenceRequest(
                prompt, tuple(Path(image) for image in images), request.max_new_tokens, mode
            )
            yield Answer(tuple(images), prompt, self._infer(environment, question).texts)

    def _environment(self) -> ToolchainEnvironment:
        version = self.description.toolchain["tensorrt-llm"]
        environment = load().toolchains.get(version)
        if environment is None:
            raise MmbuildError(
                f"the engine needs TensorRT-LLM {version}, but no environment is configured for it",
                code="MM704",
                hint=f"run `mmbuild config set-toolchain {version} --python ... --examples ...`; `mmbuild compat` "
                "lists what the engine needs",
            )
        return environment

    def _infer(self, environment: ToolchainEnvironment, question: InferenceRequest) -> InferenceResult:
        with tempfile.TemporaryDirectory(prefix="mmbuild-") as root:
            return infer(
                self.build.absolute(),
                self.description,
                environment,
                question,
                Path(root) / "tree",
                gpus=tuple(gpu.uuid for gpu in visible_gpus() or ())[
                    : self.description.llm["tensor_parallel"]
                ],
                on_line=self.report,
            )
