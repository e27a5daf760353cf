"""What steps report while they work: amounts that grow, end at their total, and come often enough to be followed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from mmbuild import api
from mmbuild.backends.lowering import step_params
from mmbuild.base.progress import BYTES, Amount, as_amount, from_data
from mmbuild.core.execution import run_plan
from mmbuild.core.execution.events import Event, EventKind
from mmbuild.core.steps.context import StepContext
from mmbuild.models.checkpoint.layer_progress import layer_counter
from mmbuild.models.families import family
from mmbuild.models.sources.config import read_config
from mmbuild.models.sources.resolve import identify
from mmbuild.steps import convert, convert_visual, download, hf_weights, quantize
from support.engines.build import facts_of
from support.models import weights_on_disk as disk
from support.projects.warm_workers import REAL_STEPS, address, starter

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "demo"
LAYERS = 4
"""Of the demo model."""

ANSWERED = disk.DEMO.parents[1] / "calibration" / "llava.jsonl"


class Reports:
    """The amounts that a step reported."""

    def __init__(self) -> None:
        self.amounts: list[Amount] = []

    def __call__(self, _: str, amount: Amount | float | None) -> None:
        if (known := as_amount(amount)) is not None:
            self.amounts.append(known)

    def of(self, unit: str) -> list[Amount]:
        return [amount for amount in self.amounts if amount.unit == unit]


def written(out: Path) -> int:
    """Bytes of the weights in ``out``, headers included."""
    return sum(path.stat().st_size for path in out.rglob("*.safetensors"))


def facts():
    return facts_of("llava", {"model": disk.DEMO})


def plain_checkpoint(root: Path, ranks: int = 1) -> Path:
    out = root / "plain"
    out.mkdir()
    params = step_params.convert(facts(), "float16", ranks)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=out))
    return out


def random_download(_: Path, out: Path, progress: Reports) -> None:
    config = read_config("dummy://" + str(disk.DEMO), None, ROOT).config
    identity = identify("dummy://" + str(disk.DEMO), None, ROOT, config=config, digest=lambda path: path.name)
    params = {
        **identity.params,
        **step_params.download(family("llava").facts(config), "model", {"model": config}, []),
    }
    download.run(
        StepContext(
            params=params, sources=identity.sources, locators=identity.locators, out=out, progress=progress
        )
    )


def converted(_: Path, out: Path, progress: Reports) -> None:
    params = step_params.convert(facts(), "float16", 2)
    convert.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=out, progress=progress))


def visual(_: Path, out: Path, progress: Reports) -> None:
    shape = step_params.visual_shape("llava", {"model": json.loads((disk.DEMO / "config.json").read_text())})
    params = step_params.convert_visual("llava", shape, "float32")
    convert_visual.run(StepContext(params=params, inputs={"model": disk.DEMO}, out=out, progress=progress))


def quantized(root: Path, out: Path, progress: Reports) -> None:
    inputs = {"checkpoint": plain_checkpoint(root, ranks=2)}
    quantize.run(StepContext(params={"algorithm": "int8"}, inputs=inputs, out=out, progress=progress))


def calibrated(_: Path, out: Path, progress: Reports) -> None:
    params = {
        **step_params.convert(facts(), "float16", 1),
        "algorithm": "fp8",
        "group_size": None,
        "image_size": list(facts().visual.image_size),
        "calibration": {"samples": 4, "seed": 0, "text_only": False},
    }
    locators = {"data": str(ANSWERED)}
    quantize.run(
        StepContext(params=params, inputs={"model": disk.DEMO}, locators=locators, out=out, progress=progress)
    )


def hugging_face(_: Path, out: Path, progress: Reports) -> None:
    params = {**step_params.convert(facts(), "float32", 1), "algorithm": "int8", "group_size": None}
    target = {"device": "cpu"}
    hf_weights.run(
        StepContext(params=params, inputs={"model": disk.DEMO}, out=out, target=target, progress=progress)
    )


Run = Callable[[Path, Path, Reports], None]

STEPS: Mapping[str, tuple[Run, str, int]] = {
    "download of random weights": (random_download, BYTES, 30),
    "convert": (converted, BYTES, 30),
    "convert_visual": (visual, BYTES, 30),
    "quantize": (quantized, "layers", LAYERS),
    "quantize, calibrated: samples": (calibrated, "samples", 4),
    "quantize, calibrated: layers": (calibrated, "layers", LAYERS),
    "hf_weights": (hugging_face, BYTES, 30),
}
"""What runs a step, the unit of its amounts, and how many different amounts it reports at least."""


@pytest.mark.parametrize(
    ("run", "unit", "least"),
    [
        pytest.param(*row, id=name, marks=pytest.mark.slow if row[0] is calibrated else ())
        for name, row in STEPS.items()
    ],
)
def test_amounts_grow_and_end_at_their_total(tmp_path: Path, run: Run, unit: str, least: int) -> None:
    reports, out = Reports(), tmp_path / "out"
    out.mkdir()
    run(tmp_path, out, reports)
    amounts = reports.of(unit)
    assert amounts[-1].complete
    assert len({amount.total for amount in amounts}) == 1
    assert all(before.done <= after.done for before, after in pairwise(amounts))
    assert len({amount.done for amount in amounts}) >= least
    if unit == BYTES:
        headers = 0.02 * written(out) + 100_000
        assert written(out) - headers <= amounts[-1].done <= written(out)


def test_a_layer_is_done_with_its_last_tensor() -> None:
    names = ["embed", "layers.0.a", "layers.0.b", "layers.1.a", "encoder_layers.1.a", "head"]
    count = layer_counter(names)
    assert [count(name).done for name in names] == [0, 0, 1, 2, 3, 3]


def test_a_layer_of_several_ranks_is_done_with_its_last_rank() -> None:
    count = layer_counter(["layers.0.a", "layers.0.a"])
    assert [count("layers.0.a"), count("layers.0.a")] == [Amount(0, 1, "layers"), Amount(1, 1, "layers")]


UNITS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("llava-int4.yaml", "float32"): {
        "convert": BYTES,
        "quantize": "layers",
        "build_llm": "packages",
        "build_visual": "packages",
        "convert_visual": BYTES,
        "assemble": BYTES,
        "measure": "questions",
        "verify": "questions",
    },
    # In the format in which it is examined too: e2e/test_exam_calibrated.py.
    ("llava-awq.yaml", "float16"): {"quantize": "layers", "assemble": BYTES},
}
"""Step -> unit of its last amount in an apply of the recipe with this `engine.dtype`, which compiles."""


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "dtype"), UNITS)
def test_every_step_of_an_apply_ends_at_its_total(
    tmp_path: Path, recipe: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_plan, "start_workers", starter(address(*REAL_STEPS)))
    last: dict[str, Amount] = {}

    def sink(event: Event) -> None:
        if event.kind is EventKind.PROGRESS and (amount := from_data(event.data)) is not None:
            last[event.label.partition("/")[2]] = amount

    steps = UNITS[recipe, dtype]
    unasked = [] if "verify" in steps else ["verify=null"]
    variants = api.load_recipe(RECIPES / recipe, [f"engine.dtype={dtype}", *unasked])
    plan = api.plan(variants, store=tmp_path / "store", build_dir=tmp_path / "build")
    api.apply(plan, sink=sink)
    for step, unit in steps.items():
        assert (last[step].unit, last[step].complete) == (unit, True), step
