"""An engine is given the token ids and pixels that transformers makes of the same question and pictures.

transformers is called directly: its processors, chat templates and preprocessing, with what files of earlier years
leave out filled in from the config. VILA has no class there: its rules are written here from its published source.
Nothing of mmbuild is imported but what is tested.
"""

import itertools
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Blip2Processor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmbuild.models.errors import EngineError
from mmbuild.models.families.llava.reference import load_inputs as llava_inputs
from mmbuild.models.families.processor import encode, load_processor
from support.errors import refused
from support.marks import slow_except
from support.models import tiny_families as tiny

PATCH, SIDE = 7, 28
VOCABULARY, IMAGE_ID = 320, 300

PARTS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{{ '<image>\n' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEXT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
TEMPLATES = {
    "parts": PARTS,
    "text": TEXT,
    "text, joined": "{% for m in messages %}{{ m['role'] + '> ' + m['content'] }}{% endfor %} <",
    "parts, with BOS": "{{ bos_token }}" + PARTS,
    "text, with BOS": "{{ bos_token }}" + TEXT,
    "BOS written out": "<s>" + PARTS,
    "system turn": "{% if messages[0]['role'] != 'system' %}Be brief. {% endif %}" + PARTS,
    "images first": (
        "{% for m in messages %}{% for c in m.content | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{% generation %}Q: {{ c.text }}"
        "{% endgeneration %}{% endfor %}{% endfor %}\n A:"
    ),
    "images last": (
        "{% for m in messages %}{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}"
        "{% for c in m.content if c.type == 'image' %} <image>{% endfor %}{% endfor %}"
    ),
    "either": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{% endif %}{% endfor %}</s>"
    ),
    "only text": (
        "{% for m in messages %}{% if m.content is not string %}{{ raise_exception('content must be text') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    ),
}
QUESTIONS = (
    "what ?",
    'Describe <b>all</b> {{ colours }} & "shapes",\n in detail.',
    "Größe ß 尺寸 🙂?",
    " leading and trailing ",
    "",
)
# Complete prompts: the pictures are named in them.
COMPLETE = (
    "<image>",
    "USER: <image>\nwhat ? ASSISTANT:",
    "first <image> then <image> which ?",
    "a<image> <image>b<image>",
)


def words(special):
    free = iter(i for i in range(VOCABULARY) if i not in special.values())
    known = dict(special) | {byte: next(free) for byte in sorted(pre_tokenizers.ByteLevel.alphabet())}
    return known | {f"[{i}]": i for i in free}


def byte_tokenizer(template="<s> $A"):
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_ID}
    core = Tokenizer(models.BPE(vocab=words(special), merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    named = [(name, special[name]) for name in special if name in template]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return wrapped(core)


def word_tokenizer():
    """Like LLaMA's tokenizer: adds a space before the first word, and depends on adjacent special tokens."""
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_ID}
    free = iter(i for i in range(3, VOCABULARY) if i != IMAGE_ID)
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .:?!<>[]{}&\"'\nß,/"
    known = dict(special) | {letter: next(free) for letter in dict.fromkeys(letters)}
    known |= {word: next(free) for word in ("▁w", "▁wh", "▁wha", "▁what", "▁t", "▁th", "▁the", "▁then")}
    merges = [
        ("▁", "w"),
        ("▁w", "h"),
        ("▁wh", "a"),
        ("▁wha", "t"),
        ("▁", "t"),
        ("▁t", "h"),
        ("▁th", "e"),
        ("▁the", "n"),
    ]
    core = Tokenizer(models.BPE(vocab=known, merges=merges, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrapped(core)


def wrapped(core):
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<image>"],
    )


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "words": word_tokenizer,
    "without BOS": lambda: byte_tokenizer("$A"),
    "with EOS": lambda: byte_tokenizer("<s> $A </s>"),
}


def shown(seed, count):
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(8, 60)), int(rng.integers(8, 60)), 3) for _ in range(count)]
    return [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]


def questions(seed):
    """Plain questions about 0 to 3 pictures, and complete prompts."""
    plain = [(question, count) for question, count in itertools.product(QUESTIONS, range(4))]
    rng = random.Random(seed)
    return [*rng.sample(plain, 8), *((prompt, prompt.count("<image>")) for prompt in COMPLETE)]


def save_llava(directory, tokenizer, template=None, strategy="default", **config):
    """The small files of a LLaVA, as transformers saves them."""
    LlavaConfig(
        text_config=LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, num_attention_heads=2),
        vision_config=CLIPVisionConfig(
            hidden_size=16, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
        ),
        image_token_index=IMAGE_ID,
        vision_feature_select_strategy=strategy,
        **config,
    ).save_pretrained(directory)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(directory)
    return processor


def by_transformers(processor, question, pictures, *, as_text):
    """Ids and pixels of transformers' processor; ``as_text`` where the template takes no list."""
    if "<image>" in question:
        return processor(text=question, images=pictures or None, return_tensors="pt")
    if as_text:
        turn = {"role": "user", "content": "<image>\n" * len(pictures) + question}
        text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        special = not text.startswith(processor.tokenizer.bos_token)
        return processor(text=text, images=pictures or None, add_special_tokens=special, return_tensors="pt")
    content = [{"type": "image", "image": picture} for picture in pictures]
    turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    return processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def same(found, expected):
    assert list(found.ids) == expected["input_ids"][0].tolist()
    pixels = expected.get("pixel_values")
    assert found.pixels.numel() == 0 if pixels is None else torch.equal(found.pixels, pixels)


@pytest.mark.parametrize("tokenizer", slow_except(TOKENIZERS, "words"))
@pytest.mark.parametrize("template", TEMPLATES)
def test_llava_prompts_equal_those_of_transformers(template, tokenizer, tmp_path):
    processor = save_llava(tmp_path, TOKENIZERS[tokenizer](), TEMPLATES[template])
    ours, as_text = load_processor(tmp_path, "llava"), "text" in template
    for seed, (question, count) in enumerate(questions(template)):
        pictures = shown(seed, count)
        same(
            encode(ours, question, pictures), by_transformers(processor, question, pictures, as_text=as_text)
        )


def in_the_form_of(year, directory):
    """Take out of saved files what files of ``year`` did not have."""
    path = directory / "processor_config.json"
    content = json.loads(path.read_text())
    images = content.pop("image_processor")
    (directory / "preprocessor_config.json").write_text(
        json.dumps(
            images | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
        )
    )
    kept = {
        2023: (),
        2024: ("processor_class", "patch_size", "vision_feature_select_strategy"),
        2025: (
            "processor_class",
            "patch_size",
            "vision_feature_select_strategy",
            "num_additional_image_tokens",
        ),
    }[year]
    if year == 2023:
        path.unlink()
    else:
        path.write_text(json.dumps({key: content[key] for key in kept if key in content}))


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("year", [2023, 2024, 2025])
def test_files_of_every_year_give_the_ids_of_today(year, strategy, tmp_path):
    processor = save_llava(tmp_path, byte_tokenizer(), PARTS, strategy)
    in_the_form_of(year, tmp_path)
    ours = load_processor(tmp_path, "llava")
    for question, count in questions(year):
        pictures = shown(year, count)
        same(encode(ours, question, pictures), by_transformers(processor, question, pictures, as_text=False))


def place_template(directory, place, template):
    """Move a saved chat template to where files of another time keep it."""
    (directory / "chat_template.jinja").unlink()
    file, key = {
        "legacy file": ("chat_template.json", "chat_template"),
        "processor config": ("processor_config.json", "chat_template"),
        "tokenizer config": ("tokenizer_config.json", "chat_template"),
        "tokenizer config, named": ("tokenizer_config.json", "chat_template"),
    }[place]
    path = directory / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    value = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    content[key] = value if "named" in place else template
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "place", ["legacy file", "processor config", "tokenizer config", "tokenizer config, named"]
)
def test_a_chat_template_is_found_wherever_transformers_finds_it(place, tmp_path):
    processor = save_llava(tmp_path, byte_tokenizer(), PARTS)
    place_template(tmp_path, place, PARTS)
    ours = load_processor(tmp_path, "llava")
    same(
        encode(ours, "what ?", shown(1, 1)), by_transformers(processor, "what ?", shown(1, 1), as_text=False)
    )


@pytest.mark.parametrize("count", range(3))
def test_llava_without_a_chat_template_uses_the_vicuna_form(count, tmp_path):
    # What the chat template of llava-1.5-7b-hf makes of one question.
    processor = save_llava(tmp_path, byte_tokenizer())
    pictures = shown(1, count)
    complete = "USER: " + "<image>\n" * count + "what ? ASSISTANT:"
    expected = processor(text=complete, images=pictures or None, return_tensors="pt")
    same(encode(load_processor(tmp_path, "llava"), "what ?", pictures), expected)


def by_vila(tokenizer, images, aspect, features, prompt, special, pictures):
    """``tokenizer_image_token`` and ``process_images`` of VILA (llava/mm_utils.py), one prompt."""
    chunks = [tokenizer(chunk, add_special_tokens=special).input_ids for chunk in prompt.split("<image>")]
    offset = 1 if special and chunks[0] and chunks[0][0] == tokenizer.bos_token_id else 0
    ids = chunks[0][:offset]
    for number, chunk in enumerate(chunks):
        ids = ids + ([-200] * features if number else []) + chunk[offset:]
    prepared = []
    for picture in pictures:
        if aspect == "resize":
            side = (images.crop_size or images.size) if hasattr(images, "crop_size") else images.size
            picture = picture.resize((side["width"], side["height"]))  # noqa: PLW2901
        elif aspect == "pad":
            width, height = picture.size
            square = Image.new(
                "RGB", (max(width, height),) * 2, tuple(int(m * 255) for m in images.image_mean)
            )
            square.paste(picture, ((max(0, height - width)) // 2, (max(0, width - height)) // 2))
            picture = square  # noqa: PLW2901
        prepared.append(picture)
    return ids, images(prepared, return_tensors="pt")["pixel_values"] if prepared else None


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: {} ASSISTANT:"
)


def vila_prompt(tokenizer, template, question, count):
    """The complete prompt, and whether the tokenizer adds its own beginning."""
    if "<image>" in question:
        return question, True
    if template is None:
        return VICUNA.format("<image>\n" * count + question), True
    content = [{"type": "image"}] * count + [{"type": "text", "text": question}]
    turn = {"role": "user", "content": "<image>\n" * count + question if "text" in template else content}
    text = tokenizer.apply_chat_template(
        [turn], chat_template=TEMPLATES[template], add_generation_prompt=True, tokenize=False
    )
    return text, not text.startswith("<s>")


@pytest.mark.parametrize("tokenizer", slow_except(TOKENIZERS, "words"))
@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("layout", ["directories", "flat"])
def test_vila_prompts_equal_those_of_its_published_code(layout, template, tokenizer, tmp_path):
    aspect = ["resize", "pad", "default"][len(str(template)) % 3]
    save = tiny.save_vila if layout == "directories" else tiny.save_flat_vila
    sources = save(1, tmp_path)
    model = sources["model"]
    text = model / "llm" if layout == "directories" else model
    speaks = TOKENIZERS[tokenizer]()
    speaks.chat_template = TEMPLATES.get(template)
    (text / "tokenizer_config.json").unlink(missing_ok=True)
    speaks.save_pretrained(text)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": aspect}))
    eyes = model / "vision_tower" if layout == "directories" else sources["vision"]
    images = AutoImageProcessor.from_pretrained(eyes, backend="pil")
    features = tiny.facts("vila", sources).visual.num_visual_features
    if layout == "flat":
        (model / "vision").mkdir(exist_ok=True)
        for file in sources["vision"].glob("*.json"):
            (model / "vision" / file.name).write_bytes(file.read_bytes())
    ours = load_processor(model, "vila")
    for seed, (question, count) in enumerate(questions(str(template))):
        pictures = shown(seed, count)
        found = encode(ours, question, pictures)
        prompt, special = vila_prompt(speaks, template, question, count)
        ids, pixels = by_vila(speaks, images, aspect, features, prompt, special, pictures)
        assert list(found.ids) == ids
        assert found.pixels.numel() == 0 if pixels is None else torch.equal(found.pixels, pixels)


@pytest.mark.parametrize("family", ["blip2-opt", "blip2-t5"])
@pytest.mark.parametrize("stated", [True, False])
def test_blip2_prompts_equal_those_of_transformers(family, stated, tmp_path):
    tiny.save_model(family, 1, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    processor = Blip2Processor(
        AutoImageProcessor.from_pretrained(tmp_path, backend="pil"),
        AutoTokenizer.from_pretrained(tmp_path),
        num_query_tokens=config["num_query_tokens"],
    )
    if stated:
        (tmp_path / "processor_config.json").write_text(
            json.dumps({"processor_class": "Blip2Processor", "num_query_tokens": config["num_query_tokens"]})
        )
    added = processor.tokenizer.convert_tokens_to_ids("<image>")
    ours = load_processor(tmp_path, family)
    for seed, question in enumerate(QUESTIONS):
        expected = processor(text=question, images=shown(seed, 1)[0], return_tensors="pt")
        expected["input_ids"][expected["input_ids"] == added] = config["image_token_index"]
        same(encode(ours, question, shown(seed, 1)), expected)


def test_nougat_is_shown_what_transformers_shows(tmp_path):
    tiny.save_model("nougat", 2, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    ours = load_processor(tmp_path, "nougat")
    for seed in range(6):
        page = Image.new("RGB", (70 + 5 * seed, 90 - 3 * seed), "white")
        page.paste((0, 0, 0), (10 + seed, 30, 50, 40 + seed))
        found = encode(ours, None, [page])
        assert torch.equal(found.pixels, processor(images=[page], return_tensors="pt")["pixel_values"])


HARD = {
    "trims": PARTS.replace("c['text']", "c['text'] | trim"),
    "small letters": PARTS.replace("c['text']", "c['text'] | lower"),
    "speaks of types": "Reply as {'type': 'text'} or {\"type\": \"text\"}. " + PARTS,
}


@pytest.mark.parametrize("question", ["what is the 'type' of this ?", " WHAT is {'type' it ?\n", "plain"])
@pytest.mark.parametrize("template", [*HARD, "parts", "text", "only text"])
def test_the_reference_of_verify_asks_as_transformers_asks_whatever_the_question(
    template, question, tmp_path
):
    source = {**TEMPLATES, **HARD}[template]
    processor = save_llava(tmp_path, byte_tokenizer(), source)
    model = SimpleNamespace(config=LlavaConfig.from_pretrained(tmp_path))
    pictures, as_text = shown(1, 2), "text" in template
    expected = by_transformers(processor, question, pictures, as_text=as_text)
    same(llava_inputs({"model": tmp_path}, model)(question, pictures), expected)
    same(encode(load_processor(tmp_path, "llava"), question, pictures), expected)


def test_settings_that_an_image_processor_fails_on_are_an_error_with_a_code(tmp_path):
    save_llava(tmp_path, byte_tokenizer(), PARTS)
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"]["image_mean"] = None
    path.write_text(json.dumps(content))
    ours = load_processor(tmp_path, "llava")
    refused(EngineError, "MM516", encode, ours, "what ?", shown(1, 1))
