from mmbuild.models.files.hf_layout import required_files

SMALL = ["config.json", "tokenizer.json", "preprocessor_config.json"]


def test_safetensors_are_taken_and_pickles_left() -> None:
    names = [*SMALL, "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
    assert required_files(names) == sorted(
        [*SMALL, "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    )


def test_pickles_are_taken_where_there_is_nothing_else() -> None:
    names = [*SMALL, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert required_files(names) == sorted(names)


def test_foreign_files_are_left() -> None:
    assert required_files(
        [*SMALL, "README.md", "model.onnx", "optimizer.pt", "flax_model.msgpack", "adapter.bin"]
    ) == sorted(SMALL)
