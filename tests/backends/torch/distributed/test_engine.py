"""Engines split over ranks: they answer as unsplit ones do, through the command line too."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import shapes_world
from mmbuild.backends.comparison import TIE
from mmbuild.backends.torch.distributed.launch import run_on_ranks
from mmbuild.cli import main
from support import TESTS
from support.engines import demo as demo_engines
from support.engines import families as family_engines
from support.engines import rank_programs
from support.engines.loaded import DEMO, drawn

pytestmark = pytest.mark.slow

SEED, TOKENS = 61, 20
PATHS = [TESTS, Path(shapes_world.__file__).parent]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Ranks find the programs, and what a failure leaves stays in the test's directory."""
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, PATHS)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.extended
@pytest.mark.parametrize(("family", "seed", "ranks"), [("blip2-t5", 1, 2)])
def test_a_split_engine_gives_the_tokens_of_the_whole_one(family, seed, ranks, capfd):
    lengths, tokens = [3, 9, 1], 16
    whole = family_engines.engine(family, seed)
    split = family_engines.directory(family, seed, tensor_parallel=ranks)
    capfd.readouterr()
    arguments = {"build": str(split), "lengths": lengths, "seed": seed, "tokens": tokens}
    run_on_ranks(ranks, "support.engines.rank_programs:answers", arguments)
    assert json.loads(capfd.readouterr().out) == rank_programs.answers_of(whole, lengths, seed, tokens)


def over_ranks(ranks, family, dtype, capfd, **arguments):
    """What :func:`rank_programs.demo_answers` prints in rank 0."""
    split = demo_engines.directory(family, dtype, tensor_parallel=ranks)
    capfd.readouterr()
    given = {"build": str(split), "family": family, "seed": SEED, "tokens": TOKENS, **arguments}
    run_on_ranks(ranks, "support.engines.rank_programs:demo_answers", given)
    return json.loads(capfd.readouterr().out)


# Four ranks on two cores take their time, and are once enough.
@pytest.mark.parametrize(
    ("ranks", "family"),
    [
        (2, "llava"),
        (2, "blip2-t5"),
        pytest.param(4, "llava", marks=pytest.mark.extended),
        pytest.param(2, "blip2-opt", marks=pytest.mark.extended),
    ],
)
def test_shipped_models_give_one_rank_s_tokens(family, ranks, capfd):
    whole = rank_programs.demo_answers_of(demo_engines.engine(family), family, SEED, TOKENS)
    split = over_ranks(ranks, family, "float32", capfd, forced=[])
    assert split["tokens"] == whole["tokens"]
    assert split["in parts"] == whole["in parts"] == ([] if family == "blip2-t5" else whole["tokens"][0])
    assert torch.allclose(torch.tensor(split["logits"]), torch.tensor(whole["logits"]), atol=TIE["float32"])


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param("llava", "float16", marks=pytest.mark.extended),
        pytest.param("blip2-opt", "float16", marks=pytest.mark.extended),
        pytest.param("blip2-t5", "bfloat16", marks=pytest.mark.extended),
    ],
)
def test_half_precision_over_ranks_parts_from_one_rank_s_by_rounding_alone(family, dtype, capfd):
    whole = rank_programs.demo_answers_of(demo_engines.engine(family, dtype), family, SEED, TOKENS)
    forced = whole["tokens"][:2]
    theirs, ours = (
        torch.tensor(found["logits"]) for found in (whole, over_ranks(2, family, dtype, capfd, forced=forced))
    )
    assert (theirs - ours).abs().max() <= TIE[dtype]
    best = theirs.topk(2, dim=-1).values
    decided = best[..., 0] - best[..., 1] > TIE[dtype]
    assert decided.float().mean() > 0.5
    assert torch.equal(theirs.argmax(-1)[decided], ours.argmax(-1)[decided])


@pytest.fixture
def build(tmp_path):
    """The demo engine split over two ranks, in its own build directory."""
    return Path(shutil.copytree(demo_engines.directory("llava", tensor_parallel=2), tmp_path / "build"))


@pytest.fixture
def picture(tmp_path):
    """A picture on disk and how many shapes are in it."""
    ((image, questions),) = drawn(41, 1)
    image.save(tmp_path / "a.png")
    return str(tmp_path / "a.png"), next(
        question.answer for question in questions if question.kind == "count"
    )


def test_run_starts_the_ranks_itself_and_prints_the_answer_once(build, picture, capfd):
    image, answer = picture
    assert main(["run", str(build), "--image", image, "--prompt", "how many ?", "--stream"]) == 0
    assert capfd.readouterr() == (answer + "\n", "")


def test_run_reports_a_wrong_picture_like_an_unsplit_engine(build, capfd):
    assert main(["run", str(build), "--image", "/nowhere.png", "--prompt", "how many ?"]) == 1
    reported = capfd.readouterr()
    assert reported.out == ""
    assert reported.err.startswith("error: the image `/nowhere.png` does not exist")
    assert "[MM517]" in reported.err


def test_run_reports_which_rank_s_file_is_damaged(build, capfd):
    weights = build / "llm" / "rank1.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["run", str(build), "--no-check", "--prompt", "how many ?"]) == 1
    reported = capfd.readouterr()
    assert reported.out == ""
    assert reported.err.count("error:") == 1
    assert reported.err.startswith("error: rank 1: ")
    assert str(weights) in reported.err


def test_verify_holds_all_ranks_together_against_the_model(build, picture, capfd):
    arguments = [
        "--model",
        str(DEMO),
        "--image",
        picture[0],
        "--prompt",
        "how many ?",
        "--max-new-tokens",
        "8",
    ]
    assert main(["verify", str(build), *arguments]) == 0
    assert "1 of 1 answers have the same tokens up to the end token" in capfd.readouterr().out
    assert json.loads((build / "report.json").read_text())["summary"]["max_kl"] < 1e-5
