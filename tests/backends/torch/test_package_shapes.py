"""What packages were compiled for, compared with engine.json before anything is allocated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbuild.backends.engine_dir import description
from mmbuild.backends.torch import packages
from mmbuild.backends.torch.aot_package import load_package
from mmbuild.backends.torch.bound_packages import BoundPackages
from mmbuild.backends.torch.build_module import runtime_buffers
from mmbuild.backends.torch.config import EngineConfig, from_json
from mmbuild.backends.torch.package_shapes import compiled_sizes
from mmbuild.backends.torch.weights import check_caches, check_weights, load_rank_file
from mmbuild.base.errors import MmbuildError
from support.engines.loaded import demo_directory

pytestmark = pytest.mark.slow

Edited = Callable[..., EngineConfig]


@pytest.fixture(scope="module")
def engine() -> Path:
    return demo_directory()


@pytest.fixture
def edited(engine: Path) -> Edited:
    def edit(**fields: int) -> EngineConfig:
        llm = json.loads((engine / "engine.json").read_text())["llm"]
        return from_json({**llm, **fields})

    return edit


def test_a_package_says_what_sizes_it_was_compiled_for(engine: Path, edited: Edited) -> None:
    names = [item[0] if item else "" for item in packages.largest_shapes(edited())["layer_decode_batch"]]
    sizes = compiled_sizes(engine / "llm" / "layer_decode_batch.pt2")
    config = edited()

    cache = sizes[names.index("attention.k_cache")]
    heads = config.llm.num_key_value_heads
    assert cache.static == {1: heads, 2: config.max_seq_len + 1, 3: config.llm.head_size}
    assert cache.most == {0: config.sequences}
    assert compiled_sizes(engine / "engine.json") == ()


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


def test_weights_of_other_shapes_are_not_passed_to_a_package(engine: Path, edited: Edited) -> None:
    tensors = load_rank_file(engine / "llm" / "rank0.safetensors", "cpu") | runtime_buffers(edited(), "cpu")
    name = "transformer.layers.1.mlp.fc.weight"

    with pytest.raises(MmbuildError, match=r"mlp\.fc\.weight") as caught:
        BoundPackages(edited(), engine / "llm", {**tensors, name: tensors[name][:1]}, "cpu")

    assert caught.value.code == "MM786"


def test_a_package_that_is_loaded_again_is_mapped_once_and_leaves_no_file(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(Path("/proc/self/fd").iterdir())
    first, second = (load_package(engine / "llm" / "head.pt2", "cpu") for _ in range(2))

    assert first._library is second._library
    assert list(tmp_path.iterdir()) == []
    assert len(set(Path("/proc/self/fd").iterdir())) <= len(before)


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
