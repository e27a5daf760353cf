"""Chat templates are found and rendered as transformers does it, and unusable ones are refused with their line."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from mmbuild.models.families.llava.processor import write_stand_in
from mmbuild.models.families.shared import dummy_tokenizer
from mmbuild.models.files import chat_template
from mmbuild.models.files.chat_template import (
    ChatTemplate,
    TemplateError,
    content_form,
    render,
    saved_template,
)
from mmbuild.models.files.small_files import SmallFileError
from support.examples import examples

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
IMAGE = "<image>"
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
TEXT = [{"role": "user", "content": f"{IMAGE}\nwhat is it?"}]

IMAGES_FIRST = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ c['text'] + ' ' }}{% endgeneration %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
BOTH = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {%- if m.content is string %}{{ m.content }}\n"
    "    {%- else %}\n"
    "        {%- for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}\n"
    "    {%- endif %}\n"
    "{%- endfor %}"
)
NUMBERED = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% for c in m.content %}"
    "{% if c.type == 'image' %}{% set ns.n = ns.n + 1 %}Picture {{ ns.n }}: <image>\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
)
STRINGS = "{% for m in messages %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}{% endfor %}"
SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ 'A chat.' + eos_token }}{% endif %}"
    "{% for m in messages %}{% if not loop.last %}{% continue %}{% endif %}{{ m.role ~ ' ' ~ m.content }}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ bos_token + m.content }}{% endfor %}"
)
DATED = (
    "{{ strftime_now('%Y') }} {{ messages | length | tojson }} {{ tools is none }} {{ messages[0].content }}"
)

USABLE = {
    "parts": [IMAGES_FIRST, BOTH, NUMBERED],
    "text": [STRINGS, SYSTEM, STRICT, DATED],
}


def theirs(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    tokenizer = dummy_tokenizer.tokenizer(320, {"<unk>": 0, "<s>": 1, "</s>": 2, IMAGE: 300})
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    rendered: str = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, **({"add_generation_prompt": True} | options)
    )
    return rendered


@pytest.mark.parametrize(("form", "template"), [(f, t) for f, ts in USABLE.items() for t in ts])
def test_the_form_that_a_template_takes_is_found(form: str, template: str) -> None:
    assert content_form(template, TOKENS, IMAGE) == form


@pytest.mark.parametrize("template", [t for ts in USABLE.values() for t in ts])
@pytest.mark.parametrize("generation_prompt", [True, False])
def test_prompts_are_those_of_transformers(template: str, generation_prompt: bool) -> None:
    messages = PARTS if content_form(template, TOKENS, IMAGE) == "parts" else TEXT
    found = render(template, messages, special_tokens=TOKENS, add_generation_prompt=generation_prompt)
    assert found == theirs(template, messages, add_generation_prompt=generation_prompt)


PIECES = (
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['content'] | trim }}", "{{ bos_token }}",
    "\n", "  ", "{%- if add_generation_prompt %}", "{% endif %}", "x", "{# note #}", "{{- ' y' }}",
    "{% generation %}", "{% endgeneration %}", "{% set a = 1 %}", "{{ a }}", "{{ m | tojson(indent=1) }}",
    "{% break %}", "{{ undefined.attribute }}", "{{ '<é>' | tojson }}", "{{ eos_token + 1 }}",
)  # fmt: skip


@pytest.fixture
def unbounded() -> Iterator[None]:
    """Templates are rendered in this process: forking one for each of hundreds of examples takes most of the time.
    Those of these tests end."""
    with mock.patch.object(chat_template, "run_bounded", lambda work: json.loads(json.dumps(work()))):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("unbounded")
@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_any_template_renders_or_fails_as_in_transformers(pieces: list[str]) -> None:
    template = "".join(pieces)
    try:
        expected = theirs(template, TEXT)
    except Exception:  # Jinja's errors and Python's, whatever the template does
        with pytest.raises(TemplateError):
            render(template, TEXT, special_tokens=TOKENS)
    else:
        assert render(template, TEXT, special_tokens=TOKENS) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("unbounded")
@settings(max_examples=examples(50), deadline=None)
@given(st.text(string.printable, max_size=40), st.integers(0, 3))
def test_text_and_number_of_pictures_pass_through(text: str, pictures: int) -> None:
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    assert render(IMAGES_FIRST, messages, special_tokens=TOKENS) == theirs(IMAGES_FIRST, messages)


UNUSABLE = [
    ("\n\n{{ raise_exception('only texts here') }}", 3, "only texts here"),
    ("{{ messages[0]['content'][0]['image']['url']['x'] }}", 1, "has no attribute 'image'"),
    ("a\n{{ missing.attribute }}", 2, "'missing' is undefined"),
    ("{% for m in messages %}\n{{ 1 / 0 }}{% endfor %}", 2, "ZeroDivisionError: division by zero"),
    ("{% for m in messages %}\n{{ m.content }", 2, "unexpected '}'"),
    ("\n{% for m in messages %}{{ m.content | no_such_filter }}{% endfor %}", 2, "no_such_filter"),
    ("{% macro f(m) %}\n{{ raise_exception('inside') }}\n{% endmacro %}\n{{ f(messages) }}", 2, "inside"),
]


@pytest.mark.parametrize(("template", "line", "said"), UNUSABLE)
def test_a_template_that_fails_is_refused_with_file_and_line(template: str, line: int, said: str) -> None:
    with pytest.raises(TemplateError) as caught:
        content_form(ChatTemplate(template, Path("chat_template.jinja")), TOKENS, IMAGE)
    assert caught.value.code == "MM730"
    assert caught.value.line == line
    assert f"chat_template.jinja:{line}`" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for c in messages[0].content %}{{ c.text }}{% endfor %}", "leaves out the question"),
        ("{{ messages[0].content | replace('<image>', '') }}", "holds `<image>` 0 times"),
        ("USER: <image>\n{{ '' ~ messages[0].content }}", "holds `<image>` 2 times"),
        ("<image>{{ messages[0].content if messages[0].content is not string }}", "shows the list itself"),
        ("", "leaves out the question"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_name_a_picture_is_refused(template: str, said: str) -> None:
    with pytest.raises(TemplateError, match="cannot ask about a picture") as caught:
        content_form(template, TOKENS, IMAGE)
    assert said in caught.value.message


def test_a_template_inside_a_json_file_is_named_by_its_key() -> None:
    template = ChatTemplate("\n{{ raise_exception('no') }}", Path("tokenizer_config.json"), "chat_template")
    with pytest.raises(TemplateError, match=r"`tokenizer_config.json` \(line 2 of `chat_template`\) cannot"):
        content_form(template, TOKENS, IMAGE)


# Where templates are saved: every combination of places, with what transformers finds in them.

PLACES = {
    "jinja": ("chat_template.jinja", "{{ 'of the file' }}"),
    "legacy": ("chat_template.json", {"chat_template": "{{ 'of the legacy file' }}"}),
    "processor": ("processor_config.json", {"chat_template": "{{ 'of the processor' }}"}),
    "tokenizer": ("tokenizer_config.json", {"chat_template": "{{ 'of the tokenizer' }}"}),
    "list": (
        "tokenizer_config.json",
        {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ 'd' }}"}]},
    ),
    "more": ("additional_chat_templates/rag.jinja", "{{ 'of rag' }}"),
    "more default": ("additional_chat_templates/default.jinja", "{{ 'of more' }}"),
    "empty": ("chat_template.jinja", ""),
    "null": ("processor_config.json", {"chat_template": None}),
    "null legacy": ("chat_template.json", {"chat_template": None}),
    "named": ("processor_config.json", {"chat_template": {"default": "{{ 'named' }}", "x": "y"}}),
    "unnamed": ("tokenizer_config.json", {"chat_template": [{"name": "x", "template": "y"}]}),
}  # fmt: skip


def edit(file: Path, **changes: object) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | changes))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of a LLaVA without a chat template."""
    directory = tmp_path_factory.mktemp("plain")
    config = {"text_config": {"vocab_size": 320}, "vision_config": {"image_size": 28, "patch_size": 7}}
    config |= {"model_type": "llava", "image_token_id": 300}
    write_stand_in(config, directory)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def laid_out(plain: Path, places: set[str], out: Path) -> Path:
    for file in plain.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    for name, content in (PLACES[place] for place in sorted(places)):
        file = out / name
        file.parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            file.write_text(content)
        else:
            known = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps(known | content))
    return out


def found_by(load: Any, directory: Path) -> str | None:
    """The default template of what transformers loads; an exception if it cannot determine which one that is."""
    template = load(directory).chat_template
    return template["default"] if isinstance(template, dict) else template


@pytest.mark.slow
@settings(max_examples=examples(80), deadline=None)
@given(places=st.sets(st.sampled_from(sorted(PLACES)), max_size=3))
def test_a_template_is_found_where_transformers_finds_it(
    plain: Path, tmp_path_factory: pytest.TempPathFactory, places: set[str]
) -> None:
    directory = laid_out(plain, places, tmp_path_factory.mktemp("places"))
    expected: dict[str, str | None] = {}
    for holder, load in (("processor", AutoProcessor), ("tokenizer", AutoTokenizer)):
        try:
            expected[holder] = found_by(load.from_pretrained, directory)
        except (ValueError, KeyError):
            expected[holder] = "refused"
    for holder in ("processor", "tokenizer"):
        required = expected[holder] if expected[holder] is not None else expected["tokenizer"]
        try:
            found = saved_template(directory, holder=holder)  # type: ignore[arg-type]
            text = None if found is None else found.text
        except TemplateError:
            text = "refused"
        assert (text or None) == (required or None), (holder, places)


def test_nothing_is_found_in_a_model_without_a_template(plain: Path) -> None:
    assert saved_template(plain) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("chat_template.json", "", "is empty"),
        ("chat_template.json", "[]", "holds a JSON array instead of an object"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("chat_template.jinja", "version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SmallFileError, match=said) as caught:
        saved_template(tmp_path)
    assert (caught.value.code, name in caught.value.message) == ("MM731", True)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(SmallFileError, match="is not UTF-8 text"):
        saved_template(tmp_path)


def test_a_legacy_file_without_its_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{}")
    with pytest.raises(TemplateError, match="has no key `chat_template`"):
        saved_template(tmp_path)


@pytest.mark.parametrize("name", ["processor_config.json", "chat_template.json"])
def test_a_list_of_templates_is_refused_where_transformers_cannot_render_it(
    plain: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / name, chat_template=[{"name": "default", "template": "{{ 'd' }}"}])
    with pytest.raises((ValueError, TypeError, AttributeError)):
        AutoProcessor.from_pretrained(tmp_path).apply_chat_template([{"role": "user", "content": "x"}])
    with pytest.raises(TemplateError, match=f"`chat_template` in .*{name}` is a list"):
        saved_template(tmp_path)


def test_an_empty_template_of_the_processor_is_refused(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ 'of the file' }}")
    edit(tmp_path / "processor_config.json", chat_template="")
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == ""
    with pytest.raises(TemplateError, match=r"`chat_template` in .*processor_config.json` is empty"):
        saved_template(tmp_path)


@pytest.mark.parametrize("value", [7, ["text"], [{"name": "default"}], {"default": 3}])
def test_a_template_of_another_kind_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(TemplateError, match="is neither text nor a list"):
        saved_template(tmp_path)


def test_names_of_templates_that_are_no_texts_are_listed(tmp_path: Path) -> None:
    named = [{"name": 1, "template": "x"}, {"name": "tool", "template": "y"}, {"name": None, "template": "z"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))

    with pytest.raises(TemplateError, match="`1`, `None`, `tool`"):
        saved_template(tmp_path)
