"""What packages were compiled for, compared with engine.json before anything is allocated."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbuild.backends.engine_dir import description
from mmbuild.backends.torch.aot_package import load_package
from mmbuild.backends.torch.config import EngineConfig, from_json
from mmbuild.backends.torch.package_shapes import compiled_shapes
from mmbuild.backends.torch.weights import check_caches, check_weights, load_rank_file
from mmbuild.base.errors import MmbuildError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "project-9d5f9bf.tar.xz"

Edited = Callable[..., EngineConfig]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("engine")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(place, filter="data")
    return place / "build" / "old"


@pytest.fixture
def edited(engine: Path) -> Edited:
    def edit(**fields: int) -> EngineConfig:
        llm = json.loads((engine / "engine.json").read_text())["llm"]
        return from_json({**llm, **fields})

    return edit


def test_a_package_says_what_shapes_it_was_compiled_for(engine: Path) -> None:
    shapes = compiled_shapes(engine / "llm" / "decode.pt2")

    assert shapes["model.transformer.layers.0.attention.k_cache"] == (1, 2, 105, 16)
    assert compiled_shapes(engine / "engine.json") == {}


def test_limits_that_the_packages_were_built_for_are_accepted(engine: Path, edited: Edited) -> None:
    check_caches(engine / "llm", edited())


@pytest.mark.parametrize(
    "field", ["max_input_len", "max_output_len", "max_batch_size", "max_beam_width", "max_multimodal_len"]
)
def test_limits_beyond_the_packages_are_refused_before_caches_are_allocated(
    engine: Path, edited: Edited, field: str
) -> None:
    with pytest.raises(MmbuildError, match="is compiled for") as caught:
        check_caches(engine / "llm", edited(**{field: 1_000}))

    assert caught.value.code == "MM786"


def test_weights_of_other_shapes_are_not_bound_to_a_package(engine: Path) -> None:
    weights = load_rank_file(engine / "llm" / "rank0.safetensors", "cpu")
    name = "transformer.vocab_embedding.weight"

    with pytest.raises(MmbuildError) as caught:
        load_package(engine / "llm" / "decode.pt2", {**weights, name: weights[name][:1]}, "cpu")

    assert caught.value.code == "MM786"


def test_more_layers_than_tensors_are_refused_without_building_the_model(engine: Path) -> None:
    llm = json.loads((engine / "engine.json").read_text())["llm"]
    config = from_json({**llm, "llm": {**llm["llm"], "num_hidden_layers": 1_024}})

    with pytest.raises(MmbuildError, match="1024 layers") as caught:
        check_weights({"": engine / "llm" / "rank0.safetensors"}, config)

    assert caught.value.code == "MM505"


def test_no_rank_is_started_without_its_weights(engine: Path, tmp_path: Path) -> None:
    data = json.loads((engine / "engine.json").read_text())
    data["llm"]["tensor_parallel"] = 1_024
    (tmp_path / "engine.json").write_text(json.dumps(data))
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "rank0.safetensors").touch()

    with pytest.raises(MmbuildError, match=r"rank1\.safetensors") as caught:
        description.require_ranks(tmp_path, description.read(tmp_path))

    assert caught.value.code == "MM787"
