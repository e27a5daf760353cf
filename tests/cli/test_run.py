"""``mmbuild run`` as a user sees it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo_worlds import ask
from mmbuild.backends.base import RunRequest
from mmbuild.backends.torch import Engine
from mmbuild.backends.torch.request_limits import require_possible
from mmbuild.backends.torch.runner import emulation_note
from mmbuild.base.errors import UsageError
from mmbuild.cli import main
from mmbuild.cli.run import pair
from mmbuild.models.errors import EngineError
from support.engines import demo as demo_engines
from support.engines.build import relaid
from support.engines.loaded import demo_directory, drawn


@pytest.fixture
def engine():
    return str(demo_directory())


@pytest.fixture
def pictures(tmp_path):
    """Two pictures on disk with the right answers to `how many ?`."""
    found = []
    for number, (picture, questions) in enumerate(drawn(21, 2)):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        found.append((str(path), next(q.answer for q in questions if q.kind == "count")))
    return found


def run_output(capsys, *arguments, status=0):
    assert main(["run", *arguments]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured


@pytest.mark.slow
def test_answer_is_the_only_output(engine, pictures, capsys):
    (image, answer), _ = pictures
    reported = run_output(capsys, engine, "--image", image, "--prompt", "how many ?")
    assert reported.out == answer + "\n"
    assert reported.err == ""


@pytest.mark.slow
def test_several_images_make_a_batch_with_a_line_each(engine, pictures, capsys):
    images = [word for path, _ in pictures for word in ("--image", path)]
    reported = run_output(capsys, engine, *images, "--prompt", "how many ?")
    assert reported.out.splitlines() == [answer for _, answer in pictures]


@pytest.mark.slow
def test_a_stream_prints_the_same(engine, pictures, capsys):
    arguments = [engine, "--image", pictures[0][0], "--prompt", "describe the picture ."]
    assert run_output(capsys, *arguments, "--stream").out == run_output(capsys, *arguments).out


@pytest.mark.slow
def test_json_holds_answers_tokens_and_profile(engine, pictures, capsys):
    reported = run_output(capsys, engine, "--image", pictures[0][0], "--prompt", "how many ?", "--json")
    data = json.loads(reported.out)
    (answer,) = data["answers"]
    assert answer["text"] == pictures[0][1]
    assert answer["prompt"] == "how many ?"
    assert len(answer["token_ids"]) == data["profile"]["new_tokens"] == 1
    assert data["profile"]["peak_bytes"] > 0


@pytest.mark.slow
def test_a_profile_goes_to_stderr(engine, pictures, capsys):
    reported = run_output(capsys, engine, "--image", pictures[0][0], "--prompt", "how many ?", "--profile")
    assert reported.out == pictures[0][1] + "\n"
    for word in ("visual", "prefill", "per token", "tokens/s", "peak memory"):
        assert word in reported.err


@pytest.mark.parametrize(
    ("images", "prompts", "expected"),
    [
        ([], ["a", "b"], [((), "a"), ((), "b")]),
        (["1"], ["a"], [(("1",), "a")]),
        (["1", "2"], ["a"], [(("1",), "a"), (("2",), "a")]),
        (["1"], ["a", "b"], [(("1",), "a"), (("1",), "b")]),
        (["1", "2"], ["a", "b"], [(("1",), "a"), (("2",), "b")]),
        (["1", "2"], [], [(("1",), None), (("2",), None)]),
    ],
)
def test_pairing_of_images_and_prompts(images, prompts, expected):
    assert pair(images, prompts) == expected


def test_together_takes_one_prompt():
    assert pair(["1", "2"], ["a"], together=True) == [(("1", "2"), "a")]
    with pytest.raises(UsageError, match="2 prompts"):
        pair(["1", "2"], ["a", "b"], together=True)


def test_numbers_that_cannot_be_paired_are_refused():
    with pytest.raises(UsageError, match="3 images with 2 prompts"):
        pair(["1", "2", "3"], ["a", "b"])


@pytest.fixture
def places(engine, tmp_path):
    """Values for the words in capitals below."""
    broken, empty, picture = tmp_path / "broken.png", tmp_path / "empty", tmp_path / "picture.png"
    broken.write_bytes(b"no picture")
    empty.mkdir()
    drawn(1, 1)[0][0].save(picture)
    return {"ENGINE": engine, "BROKEN": str(broken), "EMPTY": str(empty), "PICTURE": str(picture)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        (["ENGINE", "--prompt", "how many ? " * 100], 1, "MM512", "1 to 128"),
        (["ENGINE", "--image", "BROKEN", "--prompt", "how many ?"], 1, "MM517", "broken.png"),
        (
            ["ENGINE", "--image", "/nowhere.png", "--prompt", "how many ?"],
            1,
            "MM517",
            "`/nowhere.png` does not exist",
        ),
        (["ENGINE", "--prompt", "how many ?", "--max-new-tokens", "41"], 1, "MM515", "1 to 40"),
        (["ENGINE", "--prompt", "how many ?", "--max-new-tokens", "0"], 1, "MM515", "1 to 40"),
        (["ENGINE", "--prompt", "<image> how many ?"], 1, "MM518", "names 1 images, and 0 are given"),
        (["EMPTY", "--prompt", "how many ?"], 1, "MM540", "engine.json"),
        (["ENGINE", *["--prompt", "how many ?"] * 2, "--stream"], 2, "MM521", "--stream"),
        (["ENGINE", "--prompt", "how many ?", "--stream", "--json"], 2, "MM521", "--stream"),
        (["ENGINE", "--prompt", "how many ?", "--temperature", "-1"], 2, "MM520", "temperature"),
        (["ENGINE", "--prompt", "how many ?", "--top-p", "2"], 2, "MM520", "top_p"),
        (["ENGINE", "--image", "a", "--image", "b", *["--prompt", "c"] * 3], 2, "MM518", "cannot pair"),
        (["ENGINE"], 2, "MM518", "--prompt"),
        (["ENGINE", "--image", "PICTURE"], 1, "MM518", "--prompt"),
        (["ENGINE", "--prompt", "how many ?", "--num-beams", "2"], 1, "MM522", "1 to 1"),
        (["ENGINE", "--prompt", "how many ?", "--num-beams", "0"], 2, "MM520", "beams"),
        (["ENGINE", "--prompt", "a", "--num-beams", "2", "--temperature", "1"], 2, "MM520", "--num-beams"),
        (["ENGINE", "--prompt", "a", "--num-beams", "2", "--stream"], 2, "MM521", "--stream"),
    ],
)
def test_bad_input_is_reported_on_one_screen(places, capsys, arguments, status, code, words):
    reported = run_output(capsys, *(places.get(word, word) for word in arguments), status=status)
    if "--json" in arguments:
        assert [item["code"] for item in json.loads(reported.out)["diagnostics"]] == [code]
    else:
        assert reported.out == ""
    assert reported.err.startswith("error: ")
    assert f"[{code}]" in reported.err
    assert words in reported.err
    assert len(reported.err.splitlines()) < 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ENGINE", "--prompt", "how many ? " * 100], "MM512"),
        (["ENGINE", "--image", "/nowhere.png", "--prompt", "how many ?"], "MM517"),
        (["ENGINE", "--image", "BROKEN", "--prompt", "how many ?"], "MM517"),
        (["ENGINE", "--image", "TRUNCATED", "--prompt", "how many ?"], "MM517"),
        (["ENGINE", "--prompt", "<image> how many ?"], "MM518"),
    ],
)
def test_bad_input_is_noticed_before_the_engine_is_loaded(
    places, capsys, monkeypatch, tmp_path, arguments, code
):
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(Path(places["PICTURE"]).read_bytes()[:-60])
    loaded = []
    monkeypatch.setattr(Engine, "load", lambda *_, **__: loaded.append("engine"))
    words = [{**places, "TRUNCATED": str(truncated)}.get(word, word) for word in arguments]
    assert f"[{code}]" in run_output(capsys, *words, status=1).err
    assert loaded == []


@pytest.mark.slow
def test_more_questions_than_max_batch_size_are_answered_in_batches(engine, capsys):
    """Each answer is drawn as it would be alone, with a seed of its own."""
    words = ["shapes", "stars", "green shapes", "circles", "crosses"]
    prompts = [word for one in words for word in ("--prompt", f"how many {one} ?")]
    drawn_with = ["--temperature", "2", "--json"]
    together = json.loads(run_output(capsys, engine, *prompts, *drawn_with, "--seed", "3").out)
    alone = [
        json.loads(
            run_output(capsys, engine, "--prompt", f"how many {one} ?", *drawn_with, "--seed", str(seed)).out
        )
        for seed, one in enumerate(words, start=3)
    ]
    answers = [answer for item in alone for answer in item["answers"]]
    assert together["answers"] == answers
    assert together["profile"]["new_tokens"] == sum(item["profile"]["new_tokens"] for item in alone)


@pytest.mark.slow
def test_page_is_read_without_a_prompt_greedily_and_with_beams(tmp_path, capsys):
    built = str(demo_engines.directory("nougat"))
    (page,) = ask("nougat", 5, 1, held_out=True)
    path = tmp_path / "page.png"
    page.pictures[0].save(path)
    reported = run_output(capsys, built, "--image", str(path))
    assert reported.out.strip() == page.answer
    assert run_output(capsys, built, "--image", str(path), "--num-beams", "2").out == reported.out
    refused = run_output(capsys, built, "--image", str(path), "--prompt", "what ?", status=1)
    assert "takes no question" in refused.err


@pytest.mark.slow
def test_a_question_about_two_pictures(tmp_path, capsys):
    built = str(demo_engines.directory("vila"))
    asked_about = next(item for item in ask("vila", 6, 2, held_out=True) if len(item.pictures) == 2)
    words = []
    for number, picture in enumerate(asked_about.pictures):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        words += ["--image", str(path)]
    reported = run_output(capsys, built, "--together", *words, "--prompt", asked_about.prompt)
    assert reported.out.strip() == asked_about.answer


@pytest.mark.slow
def test_generation_settings_of_the_model_apply_unless_ignored(engine, pictures, tmp_path, capsys):
    question = ("--image", pictures[0][0], "--prompt", "how many ?")
    (answer,) = json.loads(run_output(capsys, engine, *question, "--json").out)["answers"]
    settings = {"suppress_tokens": answer["token_ids"]}
    held = str(
        relaid(
            demo_directory(),
            tmp_path / "held",
            generation_settings=settings,
            settings_not_applied={"guidance_scale": 1.5},
        )
    )
    reported = run_output(capsys, held, *question, "--json")
    (other,) = json.loads(reported.out)["answers"]
    assert not set(other["token_ids"]) & set(answer["token_ids"])
    assert reported.err.startswith(
        "warning: the model sets `guidance_scale` to 1.5, which the engine does not apply: "
    )
    assert "[MM720]" in reported.err
    reported = run_output(capsys, held, *question, "--ignore-generation-config")
    assert reported.out == run_output(capsys, engine, *question).out
    assert reported.err == ""


@pytest.mark.slow
def test_length_penalty_of_the_model_is_the_default(tmp_path, capsys):
    built = demo_engines.directory("nougat")
    (page,) = ask("nougat", 5, 1, held_out=True)
    page.pictures[0].save(tmp_path / "page.png")
    question = ("--image", str(tmp_path / "page.png"), "--num-beams", "2", "--json")
    # So much that the emptiest answer wins.
    held = str(relaid(built, tmp_path / "held", generation_settings={"length_penalty": -50.0}))
    found = [
        json.loads(run_output(capsys, directory, *question, *more).out)["answers"][0]["text"]
        for directory, more in (
            (str(built), ()),
            (held, ()),
            (held, ("--length-penalty", "1.0")),
            (str(built), ("--length-penalty", "-50")),
        )
    ]
    assert found[0] == found[2]
    assert len(found[1]) < len(found[0])
    assert found[1] == found[3]


@pytest.mark.slow
def test_fp8_on_a_cpu_is_first_reported_as_emulated(tmp_path, capsys):
    description = json.loads((demo_directory() / "engine.json").read_text())
    description["llm"]["quant_algo"] = "FP8"
    (tmp_path / "engine.json").write_text(json.dumps(description))
    reported = run_output(
        capsys, str(tmp_path), "--no-check", "--prompt", "how many ?", status=1
    )  # there is nothing but engine.json
    assert reported.err.startswith(
        "note: fp8 on a CPU is emulated: weights are rounded to float8, activations are not"
    )


@pytest.mark.parametrize(("quant_algo", "device"), [("FP8", "cuda"), ("W4A16_AWQ", "cpu"), (None, "cpu")])
def test_native_computation_needs_no_remark(quant_algo, device):
    assert emulation_note({"quant_algo": quant_algo}, {"device": device}) is None


LIMITS = {"max_output_len": 40, "max_beam_width": 1, "max_batch_size": 4}


@pytest.mark.parametrize(
    ("family", "request_", "code", "message"),
    [
        (
            "llava",
            RunRequest([((), "x")], 41),
            "MM515",
            "41 new tokens are requested, but the engine supports 1 to 40",
        ),
        (
            "llava",
            RunRequest([((), "x")], 0),
            "MM515",
            "0 new tokens are requested, but the engine supports 1 to 40",
        ),
        (
            "llava",
            RunRequest([((), "x")], beams={"width": 4}),
            "MM522",
            "4 beams are requested, but the engine supports 1 to 1",
        ),
        ("llava", RunRequest([(("a.png",), None)]), "MM518", "the model needs a question"),
        (
            "nougat",
            RunRequest([(("a.png",), "x")]),
            "MM518",
            "the model reads only images and takes no question",
        ),
    ],
)
def test_the_description_of_an_engine_decides_what_it_cannot_do(family, request_, code, message):
    with pytest.raises(EngineError) as caught:
        require_possible(family, LIMITS, request_)
    assert (caught.value.code, caught.value.message) == (code, message)


def test_what_an_engine_can_do_is_let_through():
    require_possible("llava", LIMITS, RunRequest([(("a.png",), "x")], 40, beams={"width": 1}))
    require_possible("nougat", LIMITS, RunRequest([(("a.png",), None)]))


def test_limits_are_checked_without_torch():
    program = (
        "import sys; from mmbuild.backends.torch import request_limits; from mmbuild.serving import address;"
        "from mmbuild.serving.bench import in_process;"
        "from mmbuild.models.families import family; family('nougat');"
        "print([name for name in ('torch', 'transformers', 'starlette') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_a_question_without_a_picture_has_a_note(engine, capsys):
    reported = run_output(capsys, engine, "--prompt", "how many ?")
    assert reported.out.strip()
    assert reported.err == "note: there is no --image: the model saw no picture\n"
