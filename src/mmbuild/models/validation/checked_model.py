"""The input of the checks: a model's facts, its configs, and the directories of its sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmbuild.models.families import part
from mmbuild.models.families.facts import Config, ModelFacts
from mmbuild.models.files import chat_template, processor_config
from mmbuild.models.files.chat_template import ChatTemplate
from mmbuild.models.files.expected_files import ExpectedFiles
from mmbuild.models.files.small_files import read_text
from mmbuild.models.files.vocabulary import read_tokenizer

_IMAGE_TOKEN = "<image>"  # of processors that name none


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a recipe as a directory.

    Attributes:
        directory: Directory of its files.
        weights: Whether to check its weight files, not only small files.
    """

    directory: Path
    weights: bool = True


@dataclass(frozen=True, slots=True)
class Model:
    """A model with everything that its files are checked against.

    Attributes:
        family: The family's name.
        facts: What config.json says.
        configs: config.json by source, ``model`` and ``vision``.
        sources: Sources whose files are available.
    """

    family: str
    facts: ModelFacts
    configs: Mapping[str, Config]
    sources: Mapping[str, Source]

    def expected(self) -> ExpectedFiles:
        """The files that the family has next to config.json."""
        found: ExpectedFiles = part(self.family, "files").expected(
            self.configs["model"], self.configs.get("vision")
        )
        return found

    def directory(self, source: str, below: str = "") -> Path | None:
        """A subdirectory of a source; None if it is not available."""
        found = self.sources.get(source)
        path = None if found is None else found.directory / below
        return path if path is not None and path.is_dir() else None


def template_of(model: Model, expected: ExpectedFiles) -> ChatTemplate | None:
    """The chat template for questions; None if there is none.

    Raises:
        TemplateError: MM730, as :func:`~mmbuild.models.files.chat_template.saved_template`.
        SmallFileError: MM731, a file is damaged.
    """
    directory = model.directory("model", expected.tokenizer)
    if directory is None or expected.template is None:
        return None
    template = chat_template.saved_template(directory, holder=expected.template)
    outer = model.sources["model"].directory / chat_template.JINJA_FILE
    if template is None and outer.is_file():
        return ChatTemplate(read_text(outer), outer)
    return template


def image_token_of(model: Model, expected: ExpectedFiles) -> str:
    """The image token in prompts: the tokenizer's, the processor's, or ``<image>``.

    Raises:
        ModelFilesError: MM744, the processor's is not text.
        SmallFileError: MM731, a file is damaged.
    """
    directory = model.directory("model", expected.tokenizer)
    # Without a token in config.json, prompts are split at the text.
    if directory is None or expected.image_token is None:
        return _IMAGE_TOKEN
    tokenizer = read_tokenizer(directory)
    if tokenizer is not None and tokenizer.image_token is not None:
        return tokenizer.image_token
    return (
        _IMAGE_TOKEN if expected.adds_image_token else processor_config.image_token(directory, _IMAGE_TOKEN)
    )
