"""Build a TensorRT engine from ONNX, or run one: one file for an interpreter that has tensorrt and nothing of ours.

Started as ``python program.py`` on Python >= 3.10. Requests come as JSON, one a line, on standard input; answers go
to standard output, one line each: ``{"ok": ...}`` or ``{"error": {"kind": ..., "message": ...}}``. TensorRT's own
log goes to standard error. The first request says what the process is for:

``build``  make an engine and end
``serve``  load an engine, answer ``run`` and ``time`` requests until standard input ends

Pixels and features travel through shared memory whose descriptor ``serve`` receives: the input's room first, then
the output's. CUDA is called through its driver library, so that no CUDA toolkit and no torch are needed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Request = dict[str, Any]  # one line of JSON

INPUT, OUTPUT = "pixels", "features"
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# TensorRT's names of our number formats.
DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Api:
    """What differs between the major versions of TensorRT in what this program uses; all else is one API since 8.5.

    Attributes:
        network_flag: Member of ``NetworkDefinitionCreationFlag`` that networks are made with; None for none.
        precision_flags: Number format of a network to members of ``BuilderFlag``; what is absent cannot be built.
            A strongly typed network has its formats in itself and takes no flag.
    """

    network_flag: str | None
    precision_flags: dict[str, tuple[str, ...]]


_TYPED: dict[str, tuple[str, ...]] = {"float32": (), "float16": (), "bfloat16": ()}
APIS = {
    8: Api("EXPLICIT_BATCH", {"float32": (), "float16": ("FP16",)}),
    10: Api("STRONGLY_TYPED", _TYPED),
    11: Api(None, _TYPED),  # every network is strongly typed
}
OLDEST = (8, 6)  # the first whose networks have a normalization layer, computed in float32
# Tactics out of other libraries, which then must be there wherever the engine is built or run.
LIBRARY_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")


class RefusalError(Exception):
    """A failure reported instead of an answer: a kind, which the caller knows, and a message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _load_tensorrt() -> tuple[Any, Api]:
    """The ``tensorrt`` module and its :class:`Api`."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise RefusalError("import", f"tensorrt cannot be imported: {error}") from error
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    api = APIS.get(version[0])
    if api is None or version < OLDEST:
        raise RefusalError("unsupported", f"TensorRT {tensorrt.__version__} is not one of 8.6, 10 and 11")
    return tensorrt, api


def _make_log(trt: Any) -> Any:
    """TensorRT's log: warnings and worse to standard error, errors remembered for messages."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = int(severity)
            if level <= int(trt.ILogger.Severity.WARNING):
                print(
                    f"[TensorRT] {str(severity).rpartition('.')[2]}: {message}", file=sys.stderr, flush=True
                )
            if level <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)

        def last(self) -> str:
            return self.errors[-1] if self.errors else "TensorRT gave no reason"

    return Log()


def create(entry: Any, log: Any) -> Any:
    """``Builder`` or ``Runtime``; where TensorRT gives none (damaged library, no memory) Python has a TypeError."""
    try:
        return entry(log)
    except TypeError as error:
        raise RefusalError("start", f"TensorRT does not start: {log.last()}") from error


class Cuda:
    """The first visible GPU, through the driver library; in the context that TensorRT uses too."""

    def __init__(self) -> None:
        os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise RefusalError("cuda", f"there is no CUDA driver here: {error}") from error
        self.call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)

    def call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status != 0:
            name = ctypes.c_char_p()
            self._driver.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name))
            raise RefusalError("cuda", f"{function} failed with {(name.value or b'?').decode()} ({status})")

    def sm(self) -> int:
        """Compute capability as one number: 90 for 9.0."""
        value = ctypes.c_int()
        parts = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ..._MINOR
            self.call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
            parts.append(value.value)
        return 10 * parts[0] + parts[1]

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def register(self, host: int, size: int) -> None:
        """Lock shared memory into place, which makes copies faster; where that is not allowed they work too."""
        try:
            self.call("cuMemHostRegister_v2", ctypes.c_void_p(host), ctypes.c_size_t(size), ctypes.c_uint(0))
        except RefusalError as error:
            print(f"shared memory is not locked into place: {error}", file=sys.stderr, flush=True)

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(1))  # CU_STREAM_NON_BLOCKING
        assert handle.value is not None
        return handle.value

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self.call(
            "cuMemcpyHtoDAsync_v2", *_copy(device, host), ctypes.c_size_t(size), ctypes.c_void_p(stream)
        )

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        to, source = reversed(_copy(device, host))
        self.call("cuMemcpyDtoHAsync_v2", to, source, ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))


def _copy(device: int, host: int) -> tuple[ctypes.c_uint64, ctypes.c_void_p]:
    return ctypes.c_uint64(device), ctypes.c_void_p(host)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_version(trt: Any, expected: str | None) -> None:
    if expected is not None and trt.__version__ != expected:
        raise RefusalError("version", f"the engine is for TensorRT {expected}, and this is {trt.__version__}")


def _check_sm(cuda: Cuda, required: int | None) -> int:
    here = cuda.sm()
    if required is not None and here != required:
        raise RefusalError("sm", f"the engine is for SM {required}, and this GPU is SM {here}")
    return here


# Building.


def build(request: Request) -> dict[str, Any]:
    """Make an engine.

    The request: ``onnx`` and ``engine`` (paths), ``dtype``, ``image_size``, ``max_batch_size``, and where they are
    not to be the defaults ``nodes`` (names for messages), ``opt_batch_size``, ``workspace_bytes``,
    ``optimization_level``, ``library_tactics``, ``timing_cache`` (``{"path", "sha256"}``, used as it is),
    ``timing_cache_out`` (a directory that gets the timings under their SHA-256), ``version`` and ``sm`` (what they
    must be).
    """
    _die_with_parent()
    trt, api = _load_tensorrt()
    _check_version(trt, request.get("version"))
    if request["dtype"] not in api.precision_flags:
        raise RefusalError("unsupported", f"TensorRT {trt.__version__} builds no {request['dtype']} networks")
    sm = _check_sm(Cuda(), request.get("sm"))
    log = _make_log(trt)
    builder = create(trt.Builder, log)
    flag = api.network_flag
    bits = 1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag)) if flag else 0
    network = builder.create_network(bits)
    parser = parse(trt, network, log, request["onnx"], request.get("nodes", []))
    config = configure(trt, api, builder, request)
    given = _give_timings(config, request.get("timing_cache"))
    started = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    del parser  # it owns the weights that the network refers to
    if serialized is None:
        raise RefusalError("build", f"TensorRT cannot build the engine: {log.last()}")
    with open(request["engine"], "wb") as file:
        file.write(serialized)
    return {
        "version": trt.__version__,
        "sm": sm,
        "seconds": seconds,
        "engine_bytes": serialized.nbytes,
        "timing_cache": _keep_timings(config, given, request.get("timing_cache_out")),
    }


def parse(trt: Any, network: Any, log: Any, path: str, nodes: list[str]) -> Any:
    """Fill ``network``; any error of the parser is fatal: a network that lacks nodes can be built too.

    TensorRT identifies nodes by number, from 10 on also by name; ``nodes`` has the names for all.
    """
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(path)
    lines = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        node = error.node()
        name = nodes[node] if 0 <= node < len(nodes) else "the model"
        lines.append(f"{name}: {error.desc()}")
    for line in lines:
        print(f"[ONNX] {line}", file=sys.stderr, flush=True)
    if lines or not parsed:
        raise RefusalError(
            "parse", f"TensorRT cannot read the ONNX model: {lines[0] if lines else log.last()}"
        )
    return parser


def configure(trt: Any, api: Api, builder: Any, request: Request) -> Any:
    config = builder.create_builder_config()
    if "workspace_bytes" in request:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    if "optimization_level" in request:
        config.builder_optimization_level = request["optimization_level"]
    for name in api.precision_flags[request["dtype"]]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if request["dtype"] == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: 10 bits of mantissa
    if not request.get("library_tactics"):
        _leave_out_libraries(trt, config)
    largest = request["max_batch_size"]
    best = request.get("opt_batch_size", max(1, largest // 2))
    shapes = [(batch, 3, *request["image_size"]) for batch in (1, best, largest)]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise RefusalError("build", f"TensorRT refuses the optimization profile {shapes}")
    return config


def _leave_out_libraries(trt: Any, config: Any) -> None:
    sources = config.get_tactic_sources()
    for name in LIBRARY_TACTICS:
        member = trt.TacticSource.__members__.get(name)
        if member is not None:
            sources &= ~(1 << int(member))
    config.set_tactic_sources(sources)


def _give_timings(config: Any, known: Request | None) -> str | None:
    """Hand the builder a timing cache, an empty one or the given, whose digest is looked at; returns the digest."""
    content = b""
    if known is not None:
        try:
            with open(known["path"], "rb") as file:
                content = file.read()
        except OSError as error:
            raise RefusalError("timings", f"the timing cache cannot be read: {error}") from error
        if sha256(content) != known["sha256"]:
            message = (
                f"the timing cache `{known['path']}` has SHA-256 {sha256(content)}, not {known['sha256']}"
            )
            raise RefusalError("timings", message)
    cache = config.create_timing_cache(content)
    # False: a mismatch of device or version is no match.
    if cache is None or not config.set_timing_cache(cache, False):
        raise RefusalError("timings", "TensorRT refuses the timing cache: it is of another version or GPU")
    return known["sha256"] if known is not None else None


def _keep_timings(config: Any, given: str | None, directory: str | None) -> dict[str, Any]:
    """Write the timings under their SHA-256; the given file is never touched."""
    content = bytes(config.get_timing_cache().serialize())
    digest = sha256(content)
    if directory is not None:
        with open(os.path.join(directory, f"{digest}.timings"), "wb") as file:
            file.write(content)
    return {"given": given, "sha256": digest, "changed": given is not None and given != digest}


def _die_with_parent() -> None:
    """A build of minutes ends with whoever asked for it, even by SIGKILL: prctl(PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


# Running.


class Engine:
    """A loaded engine, its device memory, and the shared memory that requests go through."""

    def __init__(self, request: Request) -> None:
        """The request: ``engine`` (a path), ``engine_bytes``, ``version``, ``sm``, ``dtype``, ``feature_dtype``,
        ``image_size``, ``max_batch_size``, ``num_visual_features``, ``hidden_size`` (all as the engine was built),
        ``memory`` (a descriptor) and ``output_offset`` (bytes)."""
        trt, _ = _load_tensorrt()
        _check_version(trt, request["version"])
        cuda = self.cuda = Cuda()
        _check_sm(cuda, request["sm"])
        self.log = _make_log(trt)
        self.engine = self._deserialize(trt, request)
        self._check_tensors(trt, request)
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise RefusalError("engine", f"TensorRT cannot prepare the engine: {self.log.last()}")
        height, width = request["image_size"]
        self.image, self.largest = (3, height, width), request["max_batch_size"]
        feature = [request["num_visual_features"], request["hidden_size"]]
        self._shape(self.largest)
        gives = list(self.context.get_tensor_shape(OUTPUT))
        if gives != [self.largest, *feature]:
            raise RefusalError("engine", f"the engine gives {gives}, not {[self.largest, *feature]}")
        self.image_bytes = 3 * height * width * ITEM_BYTES[request["dtype"]]
        self.feature_bytes = feature[0] * feature[1] * ITEM_BYTES[request["feature_dtype"]]
        self._map(request["memory"], request["output_offset"])
        self.stream = cuda.stream()
        self.device_input = cuda.allocate(self.largest * self.image_bytes)
        self.device_output = cuda.allocate(self.largest * self.feature_bytes)
        self.context.set_tensor_address(INPUT, self.device_input)
        self.context.set_tensor_address(OUTPUT, self.device_output)

    def _deserialize(self, trt: Any, request: Request) -> Any:
        path = request["engine"]
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise RefusalError("engine", f"the engine cannot be read: {error}") from error
        if len(content) != request["engine_bytes"]:  # TensorRT itself may crash on half an engine
            message = f"`{path}` has {len(content)} bytes, and was built with {request['engine_bytes']}"
            raise RefusalError("engine", message)
        self.runtime = create(trt.Runtime, self.log)  # the engine needs it for as long as it lives
        engine = self.runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise RefusalError("engine", f"TensorRT refuses `{path}`: {self.log.last()}")
        return engine

    def _check_tensors(self, trt: Any, request: Request) -> None:
        engine = self.engine
        largest = [request["max_batch_size"], 3, *request["image_size"]]
        found = {engine.get_tensor_name(number) for number in range(engine.num_io_tensors)}
        required = {INPUT: "dtype", OUTPUT: "feature_dtype"}
        if found != set(required):
            raise RefusalError(
                "engine", f"the engine has the tensors {sorted(found)}, not {sorted(required)}"
            )
        for name, key in required.items():
            dtype = engine.get_tensor_dtype(name)
            if dtype != getattr(trt.DataType, DATA_TYPES[request[key]]):
                raise RefusalError("engine", f"the engine's {name} are {dtype.name}, not {request[key]}")
        built = list(engine.get_tensor_profile_shape(INPUT, 0)[2])
        if built != largest:
            raise RefusalError("engine", f"the engine takes up to {built}, not {largest}")

    def _map(self, descriptor: int, offset: int) -> None:
        size = os.fstat(descriptor).st_size
        if offset < self.largest * self.image_bytes or size < offset + self.largest * self.feature_bytes:
            raise RefusalError("run", f"{size} bytes of shared memory are too few")
        self.memory = mmap.mmap(descriptor, size)
        self.host_input = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.host_output = self.host_input + offset
        self.cuda.register(self.host_input, size)

    def _execute(self, images: int) -> None:
        if not self.context.execute_async_v3(self.stream):
            raise RefusalError("run", f"TensorRT cannot run {images} images: {self.log.last()}")

    def _shape(self, images: int) -> None:
        if not self.context.set_input_shape(INPUT, (images, *self.image)):
            raise RefusalError("run", f"TensorRT refuses {images} images: {self.log.last()}")

    def run(self, request: Request) -> dict[str, Any]:
        """``images`` pictures out of shared memory, their features into it."""
        images, cuda, stream = request["images"], self.cuda, self.stream
        self._shape(images)
        cuda.to_device(self.device_input, self.host_input, images * self.image_bytes, stream)
        self._execute(images)
        cuda.to_host(self.host_output, self.device_output, images * self.feature_bytes, stream)
        cuda.wait(stream)
        return {"images": images}

    def time(self, request: Request) -> dict[str, Any]:
        """Seconds of each of ``repeats`` executions with ``images`` pictures that lie on the device already."""
        self._shape(request["images"])
        seconds = []
        for _ in range(request["repeats"]):
            started = time.perf_counter()
            self._execute(request["images"])
            self.cuda.wait(self.stream)
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}


# Requests and answers.


def answer(stream: Any, function: Callable[[Request], Any], request: Request) -> Any:
    """Call, and write one line; returns what was answered, None where it was refused."""
    try:
        done = function(request)
        data = {"ok": done if isinstance(done, dict) else {}}
    except RefusalError as error:
        done, data = None, {"error": {"kind": error.kind, "message": str(error)}}
    except Exception as error:
        done, data = None, {"error": {"kind": "bug", "message": f"{type(error).__name__}: {error}"}}
    stream.write(json.dumps(data) + "\n")
    stream.flush()
    return done


def main() -> int:
    # Libraries print on standard output: the answers keep the real one to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    if first["op"] == "build":
        return 0 if answer(answers, build, first) else 1
    engine = answer(answers, Engine, first)
    if engine is None:
        return 1
    operations = {"run": engine.run, "time": engine.time}
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        answer(answers, operations[request["op"]], request)
    return 0


if __name__ == "__main__":
    sys.path.pop(0)  # the directory of this file, whose neighbours are nobody's modules
    sys.exit(main())
