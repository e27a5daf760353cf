"""The comparison with vLLM: rows, which pairs are missing, the table, times of a side, and what a command starts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.against_vllm import FORMATS, Command
from benchmarks.against_vllm_rows import Row, append, missing, read, table
from benchmarks.against_vllm_sides import TOKENS, Job, measure

from benchmarks import against_vllm, against_vllm_engines, against_vllm_rows, against_vllm_sides

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "models" / "llava-shapes"
OURS = Row("c1", "2026-11-30", "a GPU", "mmbuild 1, torch 2", "ours", "fp16", 1, 603, "abc", 20.0, 4.0, 18.0)
VLLM = replace(OURS, side="vllm", software="vllm 0.26", ttft_ms=30.0, step_ms=5.0, pixels_ms=None)
PAIR = {"fp16": ("ours", "vllm")}


def test_rows_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert read(file) == []
    append(file, OURS)
    append(file, VLLM)
    assert read(file) == [OURS, VLLM]


def test_half_a_line_of_a_killed_command_does_not_count(tmp_path):
    file = tmp_path / "rows.jsonl"
    append(file, OURS)
    file.write_text(file.read_text() + '{"command": "c1", "da')
    assert read(file) == [OURS]
    append(file, VLLM)
    assert read(file) == [OURS, VLLM]


def test_a_pair_is_missing_until_one_command_has_measured_both_sides():
    assert missing([], PAIR, [1, 2]) == {"fp16": [1, 2]}
    assert missing([OURS], PAIR, [1]) == {"fp16": [1]}
    assert missing([OURS, replace(VLLM, command="c2")], PAIR, [1]) == {"fp16": [1]}
    assert missing([OURS, VLLM], PAIR, [1, 2]) == {"fp16": [2]}
    assert missing([OURS, VLLM], PAIR, [1]) == {}


def test_what_is_measured_without_vllm_is_complete_with_our_row():
    row = replace(OURS, format="int4")
    assert missing([row], {"int4": ("ours",)}, [1, 2]) == {"int4": [2]}


def test_the_table_has_ratios_of_rows_of_one_command_only():
    rows = [
        replace(OURS, format="int4", step_ms=2.0),
        OURS,
        VLLM,
        replace(OURS, batch=2),
        replace(VLLM, batch=2, command="c2", ids="other"),
    ]
    lines = table(rows, list(FORMATS)).splitlines()
    assert lines[2:6] == [
        "| fp16 | 1 | 4.000 ms | 5.000 ms | 1.25 | 20.0 ms | 30.0 ms | 1.50 | 18.0 ms | 603, same ids | c1 |",
        "| fp16 | 2 | 4.000 ms | - | - | 20.0 ms | - | - | 18.0 ms | 603 | c1 |",
        "| fp16 | 2 | - | 5.000 ms | - | - | 30.0 ms | - | - | 603 | c2 |",
        "| int4 | 1 | 2.000 ms | - | - | 20.0 ms | - | - | 18.0 ms | 603 | c1 |",
    ]
    assert {line.count("|") for line in lines[:6]} == {12}
    assert lines[7:] == [
        "- c1: 2026-11-30, a GPU; mmbuild 1, torch 2; vllm 0.26",
        "- c2: 2026-11-30, a GPU; vllm 0.26",
    ]


def test_the_table_says_that_prompts_differ():
    lines = table([OURS, replace(VLLM, prompt_tokens=604, ids="other")], list(FORMATS)).splitlines()
    assert "| 603 and 604, ids differ |" in lines[2]


class Clocked:
    """A side on a clock of its own: 3 s for each picture, 10 s for the first token, 2 s for each further one."""

    def __init__(self, short=0):
        self.now, self.short, self.seen = 0.0, short, []

    def prepare(self, pictures):
        self.now += 3 * len(pictures)
        self.seen += pictures
        return pictures

    def run(self, requests, tokens):
        self.now += 10 + 2 * (tokens - 1)
        return [([1, 2, 3], tokens - self.short) for _ in requests]


def test_times_of_a_side():
    side, shown = Clocked(), ([f"{n}a", f"{n}b"] for n in range(99))
    figures = measure(side, shown, lambda: side.now)
    assert (figures.ttft_ms, figures.pixels_ms, figures.step_ms) == (16_000, 10_000, 2000)
    assert figures.prompt_tokens == 3
    assert len(set(side.seen)) == len(side.seen), "pictures differ"


def test_a_side_that_stops_early_is_refused():
    side = Clocked(short=1)
    with pytest.raises(RuntimeError, match=f"1 requests for {TOKENS} tokens: got \\[{TOKENS - 1}\\]"):
        measure(side, iter([["a"]]), lambda: side.now)


def test_both_sides_get_the_same_pictures_and_each_request_its_own():
    one, other = against_vllm_sides.pictures_of(2, 8), against_vllm_sides.pictures_of(2, 8)
    batches = [next(one), next(one)]
    assert [p.tobytes() for p in batches[0]] == [p.tobytes() for p in next(other)]
    assert len({p.tobytes() for batch in batches for p in batch}) == 4


@pytest.fixture
def command(tmp_path):
    return Command(
        "c9", "2026-11-30", time.time() + 480, tmp_path, DEMO, tmp_path / "site", tmp_path / "rows.jsonl"
    )


@pytest.fixture
def started(monkeypatch):
    """Jobs that a command starts; each writes its rows at once, except for sides in ``fails``."""
    jobs = []

    def run_side(command, job):
        jobs.append(job)
        for batch in job.batches:
            row = replace(OURS, command=job.command, side=job.side, format=job.form, batch=batch)
            append(command.out, row)
        return 0

    monkeypatch.setattr(against_vllm, "run_side", run_side)
    return jobs


def named(jobs):
    return [(job.form, job.side, list(job.batches)) for job in jobs]


def test_a_command_measures_only_what_the_file_lacks(command, started):
    for row in (OURS, VLLM, replace(OURS, batch=2), replace(OURS, format="int4")):
        append(command.out, row)
    against_vllm.run(command, ["fp16", "int4"], [1, 2])
    assert named(started) == [("fp16", "ours", [2]), ("fp16", "vllm", [2]), ("int4", "ours", [2])]
    started.clear()
    against_vllm.run(command, ["fp16", "int4"], [1, 2])
    assert started == []


def test_a_command_starts_nothing_that_it_cannot_end(command, started, capsys):
    needed = sum(against_vllm.START.values())
    soon = replace(command, deadline=time.time() + needed + 4 * against_vllm.EACH + 5)
    against_vllm.run(soon, ["fp16"], [1, 2, 4])
    assert named(started) == [("fp16", "ours", [1, 2]), ("fp16", "vllm", [1, 2])]
    assert "fp16: no time left for batches [4]" in capsys.readouterr().out
    against_vllm.run(replace(command, deadline=time.time() + needed), ["fp16"], [1, 2, 4])
    assert len(started) == 2


def test_our_side_leaves_time_for_vllm(command, started):
    against_vllm.run(command, ["awq"], [1, 2])
    ours, vllm = started
    assert vllm.until - ours.until == against_vllm.START["vllm"] + 2 * against_vllm.EACH
    assert vllm.until == command.deadline - against_vllm.EACH


def test_vllm_is_not_started_where_our_side_failed(command, started, monkeypatch):
    monkeypatch.setattr(against_vllm, "run_side", lambda _, job: started.append(job) or 1)
    against_vllm.run(command, ["fp16", "awq"], [1])
    assert named(started) == [("fp16", "ours", [1]), ("awq", "ours", [1])]


def test_only_ours_is_measured_without_vllm(command, started):
    against_vllm.run(replace(command, site=None), ["fp16"], [1])
    assert named(started) == [("fp16", "ours", [1])]


def test_every_format_has_a_quantization_on_all_its_sides():
    assert list(against_vllm_engines.QUANTIZATION) == list(FORMATS)
    assert {form for form, sides in FORMATS.items() if "vllm" in sides} == set(
        against_vllm_sides.VLLM_QUANTIZATION
    )


@pytest.mark.parametrize("form", list(FORMATS))
def test_recipes_are_valid(form, tmp_path):
    from mmbuild import api

    (tmp_path / "model").mkdir()
    job = Job("ours", form, [1], "c", "d", str(tmp_path), str(DEMO), "", 0, tiny=True)
    (tmp_path / "model" / "config.json").write_text((DEMO / "config.json").read_text())
    (tmp_path / "recipe.yaml").write_text(against_vllm_engines.recipe(job, 32))
    (recipe,) = api.load_recipe(tmp_path / "recipe.yaml")
    assert recipe.recipe.engine.max_batch_size == 32
    assert recipe.recipe.engine.max_output_len == TOKENS


STAND_IN = """
import json, pathlib, types

class SamplingParams:
    def __init__(self, temperature, max_tokens, ignore_eos):
        self.max_tokens = max_tokens

class LLM:
    def __init__(self, model, **settings):
        assert settings["load_format"] == "dummy" and not settings["enable_prefix_caching"]
        config = json.loads((pathlib.Path(model) / "config.json").read_text())
        method = config.get("quantization_config", {}).get("quant_method")
        assert (method, settings["quantization"]) in [(None, None), ("awq", "awq_marlin"), ("fp8", "fp8")]

    def generate(self, requests, sampling, use_tqdm):
        assert len({r["multi_modal_data"]["image"].tobytes() for r in requests}) == len(requests)
        answer = types.SimpleNamespace(token_ids=[0] * sampling.max_tokens)
        return [types.SimpleNamespace(prompt_token_ids=[1, 2], outputs=[answer]) for _ in requests]
"""


@pytest.fixture
def site(tmp_path):
    """A directory with a stand-in for vLLM, and for torch, whose import takes seconds."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "vllm.py").write_text(STAND_IN)
    (folder / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    (folder / "vllm-0.0.dist-info").mkdir()
    (folder / "vllm-0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0\n"
    )
    return folder


def vllm_job(command, form):
    return Job(
        "vllm",
        form,
        [1, 2],
        "c9",
        "2026-11-30",
        str(command.room),
        str(DEMO),
        str(command.out),
        command.deadline,
        True,
    )


@pytest.mark.parametrize("form", list(against_vllm_sides.VLLM_QUANTIZATION))
def test_vllm_is_measured_in_its_own_process(command, site, form):
    assert against_vllm.run_side(replace(command, site=site), vllm_job(command, form)) == 0
    rows = read(command.out)
    assert [(row.side, row.format, row.batch, row.prompt_tokens) for row in rows] == [
        ("vllm", form, 1, 2),
        ("vllm", form, 2, 2),
    ]
    assert all("vllm 0.0" in row.software and row.pixels_ms is None for row in rows)
    assert "quantization_config" not in json.loads((DEMO / "config.json").read_text())


def test_a_side_that_fails_is_reported_with_its_log(command, site, capsys):
    (site / "vllm.py").write_text("raise ImportError('no such kernel')")
    assert against_vllm.run_side(replace(command, site=site), vllm_job(command, "fp16")) == 1
    assert "no such kernel" in capsys.readouterr().out


def test_a_side_is_stopped_at_the_deadline(command, site, capsys):
    (site / "vllm.py").write_text("import time; time.sleep(600)")
    late = replace(command, site=site, deadline=time.time())
    assert against_vllm.run_side(late, vllm_job(command, "fp16")) != 0
    assert "no time left" in capsys.readouterr().out


@pytest.mark.extended
@pytest.mark.slow
def test_both_sides_end_to_end(command, site):
    (site / "torch.py").unlink()
    tiny = replace(command, site=site, tiny=True, deadline=time.time() + 900)
    against_vllm.run(tiny, ["fp16"], [1])
    pair = against_vllm_rows.comparisons(read(command.out))["fp16", 1, "c9"]
    assert set(pair) == {"ours", "vllm"}
    assert pair["ours"].prompt_tokens == 69
    assert pair["ours"].step_ms > 0
