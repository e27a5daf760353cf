"""The image token is recognized in prompts exactly where transformers recognizes it, whatever options it has.

transformers refuses a prompt in which its tokenizer does not find every image token that its processor wrote.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from mmbuild.models.errors import EngineError
from mmbuild.models.families import family
from mmbuild.models.families.processor import encode, load_processor
from mmbuild.models.validation.checked_model import Model, Source
from mmbuild.models.validation.consistency import findings
from support.errors import refused
from support.marks import slow_except
from support.models.directories import IMAGE, VOCABULARY, edit, save_llava

TOKENS = ("<image>", "<IMG>", "IMG")
LEGACY = [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
]
NORMALIZERS: dict[str, Any] = {
    "none": None,
    "lowercase": {"type": "Lowercase"},
    "LLaMA": {"type": "Sequence", "normalizers": LEGACY},
    "brackets": {"type": "Replace", "pattern": {"String": "<"}, "content": "("},
}
FLAGS = ("normalized", "single_word", "lstrip")
PROMPTS = ("what ?", "USER: {}\nwhat ? ASSISTANT:", "{}", " {} which {} ?", "a{}b", "{}{}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_llava(tmp_path_factory.mktemp("llava") / "m")
    edit(directory / "tokenizer.json", lambda content: content.update(added_tokens=[]))
    template = (
        "{% for m in messages %}{% for c in m.content %}{{ c.text or '<image> ' }}{% endfor %}{% endfor %}"
    )
    (directory / "chat_template.jinja").write_text(template)
    return directory


def set_token(directory: Path, token: str, normalizer: str, *, restated: bool = False, **flags: bool) -> None:
    """Name the image token ``token``; its options are in tokenizer.json, or ``restated`` for another file."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}

    def change(content: dict[str, Any]) -> None:
        words = content["model"]["vocab"]
        content["normalizer"] = NORMALIZERS[normalizer]
        for word in ("<image>", token):
            words.pop(word, None)
        words[token] = IMAGE
        own = plain if restated else plain | flags
        content["added_tokens"] = [{"id": IMAGE, "content": token, **own}]

    edit(directory / "tokenizer.json", change)
    decoder = {str(IMAGE): {"content": token, **plain, **flags}} if restated else None
    edit(directory / "tokenizer_config.json", added_tokens_decoder=decoder, extra_special_tokens=[token])
    edit(directory / "processor_config.json", image_token=token)
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text().replace("<image>", token))


def validated(directory: Path) -> list[str]:
    config = json.loads((directory / "config.json").read_text())
    facts = family("llava").facts(config, None)
    model = Model("llava", facts, {"model": config}, {"model": Source(directory, weights=False)})
    return [item.error.code for item in findings(model)]


def by_transformers(processor: Any, prompt: str, token: str, pictures: list[Any]) -> list[int] | None:
    """The ids; None if transformers refuses the prompt."""
    text = prompt if token in prompt else f"{token} {prompt}"
    try:
        return processor(text=text, images=pictures, return_tensors="pt")["input_ids"][0].tolist()
    except ValueError:
        return None


@pytest.mark.parametrize("restated", [False, True])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("token", slow_except(TOKENS, "<IMG>"))
def test_prompts_are_those_of_transformers_or_refused(
    token: str, normalizer: str, restated: bool, saved: Path, tmp_path: Path
) -> None:
    for number, chosen in enumerate(itertools.product((False, True), repeat=len(FLAGS))):
        directory = shutil.copytree(saved, tmp_path / str(number))
        set_token(directory, token, normalizer, restated=restated, **dict(zip(FLAGS, chosen, strict=True)))
        processor = AutoProcessor.from_pretrained(directory, backend="pil")
        prompts = [prompt.replace("{}", token) for prompt in PROMPTS]
        pictures = [[Image.new("RGB", (30, 30))] * max(1, prompt.count(token)) for prompt in prompts]
        expected = [
            by_transformers(processor, prompt, token, shown)
            for prompt, shown in zip(prompts, pictures, strict=True)
        ]
        found = validated(directory)
        if found:
            assert found[0] == "MM737"
            assert expected == [None] * len(prompts)
            refused(EngineError, "MM516", load_processor, directory, "llava")
            continue
        ours = load_processor(directory, "llava")
        for prompt, shown, ids in zip(prompts, pictures, expected, strict=True):
            if ids is None:
                refused(EngineError, "MM518", encode, ours, prompt, shown)
            else:
                assert list(encode(ours, prompt, shown).ids) == ids


def test_ids_that_the_tokenizers_library_ignores_are_refused(saved: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(saved, tmp_path / "m")

    def change(content: dict[str, Any]) -> None:
        words = content["model"]["vocab"]
        del words["<image>"]  # and the ids after it, up to the vocabulary's end
        content["model"]["vocab"] = {word: number for word, number in words.items() if number < IMAGE}
        content["added_tokens"] = [
            {"id": IMAGE + 1, "content": "<image>", "normalized": False, "special": True}
        ]
        content["added_tokens"][0] |= {"single_word": False, "lstrip": False, "rstrip": False}

    edit(directory / "tokenizer.json", change)
    edit(directory / "config.json", image_token_index=IMAGE + 1)
    assert VOCABULARY > IMAGE + 1
    processor = AutoProcessor.from_pretrained(directory, backend="pil")
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == IMAGE
    assert validated(directory) == ["MM737"]
