"""Every family's demo model through OpenAI's own client: many at once, each answer as if asked alone."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo_worlds import ask
from support.engines import demo as demo_engines
from support.engines.loaded import demo_engine
from support.serving.served import served

pytestmark = pytest.mark.slow
FAMILIES = ["llava", "vila", "blip2-opt", "blip2-t5", "nougat"]


def engine_of(family):
    return demo_engine() if family == "llava" else demo_engines.engine(family)


def data_url(picture) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def messages(asked):
    """One message of the user: pictures, then the question."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in asked.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": asked.question or ""}]}]


def client_of(server):
    import openai  # here: it takes half a second, which other runs would spend collecting these tests

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_questions_asked_alone(family) -> None:
    engine = engine_of(family)
    questions = ask(family, 77, 10, held_out=False)
    # BLIP-2's processor has no chat template: the prompt is the client's.
    texts = [one.prompt if family.startswith("blip2") else one.question for one in questions]
    alone = [
        engine.generate([list(one.pictures)], [text])[0].text
        for one, text in zip(questions, texts, strict=True)
    ]

    def answer(place: int) -> str:
        sent = messages(questions[place])
        sent[0]["content"][-1]["text"] = texts[place] or ""
        streamed = client.chat.completions.create(model="numbers", messages=sent, stream=place % 2 == 0)
        if place % 2:
            return streamed.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in streamed)

    with served(engine, queue=20) as server, ThreadPoolExecutor(10) as pool:
        client = client_of(server)
        assert list(pool.map(answer, range(10))) == alone
        assert 2 <= max(step.decoded for step in server.steps) <= engine.config.max_batch_size
        assert server.loop.counts() == (0, 0)


def test_a_conversation_goes_through_the_models_template() -> None:
    engine = demo_engine()
    [asked] = ask("llava", 5, 1, held_out=False)
    turns = [
        *messages(asked),
        {"role": "assistant", "content": asked.answer},
        {"role": "user", "content": "what colour ?"},
    ]
    wanted = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.question}]},
        {"role": "assistant", "content": [{"type": "text", "text": asked.answer}]},
        {"role": "user", "content": [{"type": "text", "text": "what colour ?"}]},
    ]
    from transformers import AutoProcessor

    theirs = AutoProcessor.from_pretrained(demo_engines.model("llava"))
    prompt = theirs.apply_chat_template(wanted, add_generation_prompt=True)
    ids = theirs(images=list(asked.pictures), text=prompt)["input_ids"][0]
    with served(engine) as server:
        usage = client_of(server).chat.completions.create(model="numbers", messages=turns, max_tokens=1).usage
    assert usage.prompt_tokens == len(ids)


def test_a_prompt_read_in_pieces_gives_the_same_answer(monkeypatch) -> None:
    engine = demo_engine()
    asked = ask("llava", 9, 8, held_out=False)
    alone = [engine.generate([list(one.pictures)], [one.question])[0].text for one in asked]
    with served(engine, queue=20) as server, ThreadPoolExecutor(8) as pool:
        monkeypatch.setattr(server.loop, "_readable", lambda: 16)
        client = client_of(server)

        def answer(one) -> str:
            made = client.chat.completions.create(model="numbers", messages=messages(one))
            return made.choices[0].message.content

        assert list(pool.map(answer, asked)) == alone
        assert any(step.read == 16 and step.decoded for step in server.steps)


@pytest.mark.parametrize(
    ("family", "content", "code"),
    [
        ("llava", "what is in this <image> ?", "MM518"),
        ("nougat", "read it", "MM518"),
        (
            "blip2-opt",
            [{"type": "text", "text": "a"}, *[{"type": "image_url", "image_url": {"url": "data:,x"}}]],
            "MM517",
        ),
    ],
)
def test_what_a_model_cannot_be_asked_is_the_clients_error(family, content, code) -> None:
    from openai import BadRequestError

    with served(engine_of(family)) as server, pytest.raises(BadRequestError) as refused:
        client_of(server).chat.completions.create(
            model="numbers", messages=[{"role": "user", "content": content}]
        )
    assert refused.value.code == code
