"""Visual engines of all five families at their real shapes with random weights on one GPU: TensorRT, .pt2, eager.

`python -m benchmarks.visual_tensorrt_cuda --dir DIR --python PYTHON [--variable NAME=VALUE ...] [MODEL ...]` needs a
CUDA GPU and an interpreter with TensorRT. It builds both engines of every model (two models at a time), then times
them one after the other, and prints a line of JSON for each model and batch. Errors are relative (L2) to the same
weights, rounded to float16, in float32 without TF32. Random weights say nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmbuild.base.errors import MmbuildError

DEVICE, DTYPE = "cuda", "float16"
MAX_BATCH = 4
REPEATS = 50
# Family and recorded config.
MODELS = {
    "llava": ("llava", "llava-hf/llava-1.5-7b-hf"),
    "nougat": ("nougat", "facebook/nougat-base"),
    "blip2-opt": ("blip2-opt", "Salesforce/blip2-opt-2.7b"),
    "blip2-t5": ("blip2-t5", "Salesforce/blip2-flan-t5-xl"),
    "vila": ("vila", "Efficient-Large-Model/VILA1.5-3b"),
}


def facts(model: str) -> Any:
    """ModelFacts of a recorded model."""
    from mmbuild.models.families import family
    from mmbuild.models.sources.config import read_config

    name, recorded = MODELS[model]
    return family(name).facts(read_config(f"dummy://{recorded}", None, Path()).config)


def visual_config(model: str) -> Any:
    """What the engines are built for."""
    from mmbuild.backends.visual.config import VisualConfig

    visual = facts(model).visual
    return VisualConfig(DTYPE, DTYPE, MAX_BATCH, visual.num_visual_features, tuple(visual.image_size))


def make_module(model: str) -> Any:
    """The visual side with random weights that float16 holds, the same in every process; float32, on the GPU."""
    import torch

    from mmbuild.models.families import part
    from mmbuild.models.sources.config import read_config

    name, recorded = MODELS[model]
    config = read_config(f"dummy://{recorded}", None, Path()).config
    shape = part(name, "visual_shape").shape(config)
    with torch.device(DEVICE):
        module = part(name, "visual").make(shape, torch.float16)
    module = module.float().to(DEVICE).eval().requires_grad_(False)
    generator = torch.Generator(DEVICE).manual_seed(7)
    for key, value in module.named_parameters():
        if value.dim() <= 1 and key.endswith("bias"):
            value.zero_()
        elif value.dim() <= 1 and "norm" in key.lower():
            value.fill_(1.0)
        else:
            value.normal_(0, 0.02, generator=generator)
        value.copy_(value.half().float())
    return module


def interpreter(arguments: argparse.Namespace) -> Any:
    """The Python that has TensorRT."""
    from mmbuild.config.model import Interpreter

    variables = dict(entry.split("=", 1) for entry in arguments.variable)
    return Interpreter(python=arguments.python, variables=variables)


def target() -> dict[str, Any]:
    """The GPU here."""
    import torch

    from mmbuild.backends.torch.aot_package import cpu_isa

    major, minor = torch.cuda.get_device_capability()
    return {"device": "cuda", "sm": 10 * major + minor, "isa": cpu_isa()}


def build_part(arguments: argparse.Namespace, model: str, backend: str) -> None:
    """One engine, in a process of its own; leaves its times."""
    from safetensors.torch import save_file

    from mmbuild.backends.tensorrt import engine as tensorrt_engine
    from mmbuild.backends.torch import visual_build
    from mmbuild.backends.visual.tensors import WEIGHTS

    room = arguments.dir
    module, config = make_module(model), visual_config(model)
    out = room / model / backend
    out.mkdir(parents=True)
    started = time.perf_counter()
    times: dict[str, Any] = {}
    if backend == "torch":
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        save_file(
            {
                key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
                for key, value in tensors.items()
            },
            out / WEIGHTS,
        )
        visual_build.build(module, config, out, target(), str)
    else:
        options: dict[str, Any] = {}
        if arguments.level is not None:
            options["optimization_level"] = arguments.level
        if backend == "again":  # with the timings of the first build
            (file,) = (room / model / "tensorrt").glob("*.timings")
            options["timing_cache"] = {"path": str(file.absolute()), "sha256": file.stem}
        answer = tensorrt_engine.build(
            module, config, out, target(), interpreter=interpreter(arguments), options=options
        )
        times = {"build": answer["seconds"], "timings": answer["timing_cache"], "version": answer["version"]}
    times["all"] = time.perf_counter() - started
    times["MB"] = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    (room / model / f"{backend}.json").write_text(json.dumps(times))
    print(model, backend, json.dumps(times), flush=True)


def build(arguments: argparse.Namespace, models: list[str]) -> None:
    """All engines: of each backend two at a time."""
    waiting = [(model, backend) for model in models for backend in ("tensorrt", "torch")]
    running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
    while waiting or running:
        for work in list(waiting):
            if sum(backend == work[1] for _, backend in running) < 2:
                waiting.remove(work)
                running[work] = start(arguments.dir, *work)
        for work, process in list(running.items()):
            if process.poll() is not None:
                del running[work]
                place = arguments.dir / work[0] / work[1]
                told = f"{place}.json" if process.returncode == 0 else f"{place}.log"
                print(*work, process.returncode, Path(told).read_text()[-3000:], flush=True)
        time.sleep(0.2)


def start(room: Path, model: str, backend: str) -> subprocess.Popen[bytes]:
    """Run this module again beside us for one engine."""
    (room / model).mkdir(parents=True, exist_ok=True)
    log = (room / model / f"{backend}.log").open("wb")
    command = [
        sys.executable,
        "-m",
        "benchmarks.visual_tensorrt_cuda",
        *sys.argv[1:],
        "--part",
        model,
        backend,
    ]
    return subprocess.Popen(command, stdout=log, stderr=log)


def milliseconds(call: Callable[[], Any]) -> float:
    """Median time of a call with the GPU at rest before and after."""
    import torch

    for _ in range(5):
        call()
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def measure(arguments: argparse.Namespace, model: str) -> None:
    """Errors and times of one model, alone on the machine."""
    import torch

    from mmbuild.backends.tensorrt import engine as tensorrt_engine
    from mmbuild.backends.torch import visual_engine

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config, room = visual_config(model), arguments.dir / model
    module = make_module(model)
    pictures = torch.randn(MAX_BATCH, 3, *config.image_size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        module.feature_dtype = torch.float32
        expected = torch.cat([module(image.to(DEVICE)[None]) for image in pictures.half().float()])
        module = module.half()
        module.feature_dtype = torch.float16
        started = time.perf_counter()
        engine = tensorrt_engine.VisualEngine(room / "tensorrt", target(), interpreter(arguments))
        described = {"model": model, "rows": list(expected.shape[1:])}
        described["tensorrt load s"] = time.perf_counter() - started
        for backend in ("tensorrt", "torch"):
            times = json.loads((room / f"{backend}.json").read_text())
            described |= {f"{backend} {key}": times[key] for key in ("build", "all", "MB") if key in times}
        packaged = visual_engine.VisualEngine(room / "torch", target())
        for images in (1, MAX_BATCH):
            row = compare(pictures[:images], expected[:images], module, packaged, engine)
            row = {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
            print(json.dumps({**described, "images": images, **row}), flush=True)
        engine.close()


def compare(pictures: Any, expected: Any, module: Any, packaged: Any, engine: Any) -> dict[str, Any]:
    """One batch, three ways: times with pixels on the GPU and from the host's memory, errors."""
    on_gpu = pictures.to(DEVICE).half()
    count = len(pictures)
    timed = engine.ask({"op": "time", "images": count, "repeats": REPEATS + 5})["seconds"][5:]

    def error(found: Any) -> float:
        return float((found.float() - expected).norm() / expected.norm())

    return {
        "eager ms": milliseconds(lambda: module(on_gpu)),
        "pt2 ms": milliseconds(lambda: packaged(on_gpu)),
        "tensorrt ms": statistics.median(timed) * 1e3,
        "pt2 from host ms": milliseconds(lambda: packaged(pictures)),
        "tensorrt from host ms": milliseconds(lambda: engine(pictures)),
        "eager error": error(module(on_gpu)),
        "pt2 error": error(packaged(on_gpu)),
        "tensorrt error": error(engine(pictures)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory with 20 GB of room")
    parser.add_argument("--python", type=Path, required=True, help="interpreter with TensorRT")
    parser.add_argument("--variable", action="append", default=[], help="NAME=VALUE for that interpreter")
    parser.add_argument("--level", type=int, help="TensorRT's builder_optimization_level, 0 to 5")
    parser.add_argument("--again", action="store_true", help="build once more with the timings of the first")
    parser.add_argument("--part", nargs=2, help="build one engine (used by this script itself)")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; all where left out")
    arguments = parser.parse_args()
    models = arguments.models or list(MODELS)
    if arguments.part:
        build_part(arguments, *arguments.part)
        return
    build(arguments, models)
    for model in models:
        try:
            measure(arguments, model)
        except (OSError, RuntimeError, MmbuildError) as error:
            print(f"FAILED {model}: {type(error).__name__}: {error}", flush=True)
    if arguments.again:
        build_part(arguments, models[0], "again")


if __name__ == "__main__":
    main()
