"""A class of tokenizers is refused exactly if transformers cannot load it from the vocabulary in tokenizer.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mmbuild.models.errors import ModelFilesError
from mmbuild.models.families import family
from mmbuild.models.validation.checked_model import Model, Source
from mmbuild.models.validation.consistency import findings
from mmbuild.models.validation.tokenizer_class import require_tokenizer_class
from support.errors import refused
from support.models.directories import edit

EXAMPLES = Path(__file__).parents[3] / "examples" / "models"
CLASSES = (
    None,
    "PreTrainedTokenizerFast",
    "LlamaTokenizerFast",
    "GPT2Tokenizer",
    "CodeLlamaTokenizer",
    "Qwen2Tokenizer",
    "NougatTokenizerFast",
    "BertTokenizer",
    "T5TokenizerFast",
    "XLMRobertaTokenizer",
    "MBartTokenizer",
    "CamembertTokenizer",
    "NoSuchTokenizer",
)
TEXTS = ["▁", "a", "b", "▁a"]
SPECIAL = ["<pad>", "</s>", "<unk>", "<image>"]
WORDS = {text: number for number, text in enumerate([*SPECIAL, *TEXTS])}
MODELS = {
    "BPE": {"type": "BPE", "vocab": WORDS, "merges": [["▁", "a"]], "unk_token": "<unk>"},
    "WordLevel": {"type": "WordLevel", "vocab": WORDS, "unk_token": "<unk>"},
    "Unigram": {"type": "Unigram", "vocab": [[text, -1.0] for text in WORDS], "unk_id": 2},
}


def saved(directory: Path, kind: str, name: str | None, example: str = "blip2-opt-shapes") -> Path:
    shutil.copytree(EXAMPLES / example, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": text, **flags} for number, text in enumerate(SPECIAL)]
    content = {"version": "1.0", "added_tokens": added, "model": MODELS[kind]}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    edit(directory / "tokenizer_config.json", tokenizer_class=name, backend=None, bos_token=None)
    return directory


def loads(directory: Path) -> bool:
    try:
        AutoTokenizer.from_pretrained(directory)("a b")
    except Exception:  # its classes raise anything
        return False
    return True


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_refused_exactly_if_transformers_fails(
    name: str | None, kind: str, tmp_path: Path
) -> None:
    directory = saved(tmp_path / "m", kind, name)
    if loads(directory):
        require_tokenizer_class(directory)
    else:
        error = refused(ModelFilesError, "MM731", require_tokenizer_class, directory)
        assert f'"{name}"' in error.message


@pytest.mark.parametrize("key", ["add_prefix_space", "bos_token", "eos_token", "unk_token"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_setting_that_a_class_needs_may_not_be_null(name: str | None, key: str, tmp_path: Path) -> None:
    directory = saved(tmp_path / "m", "BPE", name)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: None}))
    if loads(directory):
        require_tokenizer_class(directory)
    else:
        refused(ModelFilesError, "MM731", require_tokenizer_class, directory)


def test_validation_reports_it(tmp_path: Path) -> None:
    directory = saved(tmp_path / "m", "BPE", "T5Tokenizer")
    edit(directory / "config.json", image_token_index=SPECIAL.index("<image>"))
    config = json.loads((directory / "config.json").read_text())
    facts = family("blip2-opt").facts(config, None)
    model = Model("blip2-opt", facts, {"model": config}, {"model": Source(directory, weights=False)})
    assert [item.error.code for item in findings(model)] == ["MM731"]


def test_some_models_take_any_class(tmp_path: Path) -> None:
    # transformers knows that LLaVA's files often name a wrong one.
    directory = saved(tmp_path / "m", "BPE", "T5Tokenizer", "llava-shapes")
    assert loads(directory)
    require_tokenizer_class(directory)
