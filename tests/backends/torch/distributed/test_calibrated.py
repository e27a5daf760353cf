"""Calibrated checkpoints split over two ranks answer as one rank does, each algorithm as closely as it can."""

import dataclasses
import json

import pytest
import torch

from mmbuild.backends.torch.calibration.calibrate import calibrate, synthetic_requests
from mmbuild.backends.torch.calibration.write import write
from mmbuild.backends.torch.config import EngineConfig
from mmbuild.backends.torch.distributed.launch import run_on_ranks
from mmbuild.models.checkpoint.calibrated_layout import ALGORITHMS
from mmbuild.models.checkpoint.config import CheckpointConfig
from mmbuild.models.families import family
from mmbuild.models.families.processor import load_processor
from support import TESTS
from support.engines import rank_calibrated
from support.engines.loaded import DEMO

pytestmark = pytest.mark.slow

LLM = family("llava").facts(json.loads((DEMO / "config.json").read_text())).llm
GROUP, ROWS = 64, 8
PROMPT = [1, 17, *range(LLM.vocab_size, LLM.vocab_size + ROWS), 30, 41, 12]
FORCED = [9, 23, 5, 40, 11, 8]
# Largest difference of a logit. int4_awq and fp8: sums of float32 in another order. smoothquant: each rank rounds its
# part of the inputs of dense and proj by its own scale, which is finer than one for all, and another one.
BOUNDS = {"int4_awq": 2e-4, "fp8": 2e-4, "smoothquant": 0.6}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def engine_config(algorithm, ranks):
    how = ALGORITHMS[algorithm]
    group = GROUP if how.grouped else None
    return EngineConfig(LLM, None, "float32", how.quant_algo, ranks, 1, 1, 32, 16, ROWS, group)


def checkpoints(algorithm, root):
    """The demo LLaVA, fitted once on drawn pictures, written for one rank and for two."""
    requests = list(synthetic_requests(load_processor(DEMO, "llava"), (64, 64), ["what ?"], 3, 0))
    found = calibrate(
        {"model": DEMO}, "llava", requests,
        algorithm=algorithm, group_size=GROUP, dtype="float32", device="cpu",
    )  # fmt: skip
    made = {}
    for ranks in (1, 2):
        config = engine_config(algorithm, ranks)
        made[ranks] = root / f"{algorithm}-{ranks}"
        made[ranks].mkdir()
        stored = CheckpointConfig(LLM, "float32", ranks, config.quant_algo, config.group_size)
        write(DEMO, made[ranks], "llava", stored, found)
    return made


def test_two_ranks_answer_as_one_does(tmp_path, capfd):
    whole, jobs = [], []
    for algorithm in ALGORITHMS:
        made = checkpoints(algorithm, tmp_path)
        alone = rank_calibrated.session_of(engine_config(algorithm, 1), made[1], 0)
        whole.append(torch.tensor(rank_calibrated.answer(alone, PROMPT, FORCED)))
        config = dataclasses.asdict(engine_config(algorithm, 2))
        jobs.append({"config": config, "checkpoint": str(made[2]), "prompt": PROMPT, "forced": FORCED})
    capfd.readouterr()
    run_on_ranks(2, "support.engines.rank_calibrated:answers", {"jobs": jobs})
    split = map(torch.tensor, json.loads(capfd.readouterr().out.splitlines()[-1]))
    for algorithm, one, two in zip(ALGORITHMS, whole, split, strict=True):
        differ = float((one - two).abs().max())
        assert differ <= BOUNDS[algorithm], algorithm
        # As far as they differ at all, ranks rounded; the words are the same where one is ahead by more.
        best = one.topk(2, dim=-1).values
        decided = best[:, 0] - best[:, 1] > 2 * differ
        assert decided.any(), algorithm
        assert torch.equal(one.argmax(-1)[decided], two.argmax(-1)[decided]), algorithm
    assert (whole[0] - whole[1]).abs().max() > 1e-3, "algorithms that give the same were not run"
