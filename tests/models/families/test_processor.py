"""Prompts and pictures on their way into the engine."""

import numpy as np
import pytest
from PIL import Image

from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Request, encode
from support.engines.loaded import demo_engine, drawn
from support.errors import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def engine():
    return demo_engine()


@pytest.fixture
def picture():
    return drawn(1, 1)[0][0]


def test_each_feature_of_an_image_is_one_placeholder(engine, picture):
    (request,) = engine.encode([picture], ["how many ?"])
    features = engine.visual.config.num_visual_features
    assert request.ids.count(engine.description.image_token_id) == features == 64
    assert request.pixels.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("kind", ["PIL", "grey", "palette", "alpha", "array", "file", "jpeg"])
def test_pictures_of_every_kind_are_read(engine, picture, tmp_path, kind):
    path = tmp_path / "picture.png"
    picture.save(path)
    picture.convert("RGB").save(tmp_path / "picture.jpeg", quality=95)
    given = {
        "PIL": picture,
        "grey": picture.convert("L"),
        "palette": picture.convert("P"),
        "alpha": picture.convert("RGBA"),
        "array": np.asarray(picture),
        "file": path,
        "jpeg": str(tmp_path / "picture.jpeg"),
    }[kind]
    (request,) = engine.encode([given], ["how many ?"])
    assert request.pixels.shape == (1, 3, 64, 64)
    assert request.pixels.isfinite().all()


def test_a_picture_of_another_shape_is_cut_to_the_model_s(engine):
    (request,) = engine.encode([Image.new("RGB", (301, 77), "red")], ["how many ?"])
    assert request.pixels.shape == (1, 3, 64, 64)


def test_prompts_and_images_must_be_as_many(engine, picture):
    error = refused(EngineError, "MM518", engine.encode, [picture], ["one ?", "two ?"])
    assert "2 prompts and 1 images" in error.message


@pytest.mark.parametrize("tokens", [2, 3])
def test_an_image_is_named_once_in_its_prompt(engine, picture, tokens):
    prompt = "<image> " * tokens + "question: how many ? answer:"
    refused(EngineError, "MM518", encode, engine.processor, prompt, [picture])


def test_placeholders_and_features_must_be_equal_in_number(engine, picture):
    request = encode(engine.processor, "how many ?", [picture])
    assert request.ids[1] == engine.description.image_token_id
    fewer = Request(request.ids[2:], request.pixels)
    error = refused(EngineError, "MM519", engine.prompt_table, [fewer])
    assert "63 image placeholders" in error.message
    assert "64 rows" in error.message


def test_a_question_is_needed_where_the_model_takes_one(engine, picture):
    refused(EngineError, "MM518", encode, engine.processor, None, [picture])


def test_more_images_than_the_prompt_table_holds_are_refused(engine, picture):
    requests = engine.encode([[picture, picture, picture], [picture, picture]], ["how many ?"] * 2)
    refused(EngineError, "MM534", engine.prompt_table, requests)


def test_pixels_of_another_size_are_refused(engine, picture):
    (request,) = engine.encode([picture], ["how many ?"])
    other = Request(request.ids, request.pixels[:, :, :32, :32])
    assert "[3, 32, 32]" in refused(EngineError, "MM535", engine.prompt_table, [other]).message
