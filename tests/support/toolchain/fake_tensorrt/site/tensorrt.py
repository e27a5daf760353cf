"""A stand-in for the `tensorrt` module of one version: it has the names that version has, and no others.

FAKE_TENSORRT names the recording of a version's names (tests/contracts/tensorrt). Engines run their ONNX model by
onnx's own reference evaluator on memory of the host (driver.c). FAKE_FAULT makes one thing go wrong.
"""

import ctypes
import enum
import hashlib
import json
import math
import os
import signal
from pathlib import Path

import numpy as np

_RECORDED = json.loads(Path(os.environ["FAKE_TENSORRT"]).read_text(encoding="utf-8"))
_FAULT = os.environ.get("FAKE_FAULT", "")
__version__ = _RECORDED["version"]
_MAJOR = int(__version__.split(".")[0])


def _recorded(name):
    return enum.IntEnum(name, _RECORDED["enums"][name])


BuilderFlag = _recorded("BuilderFlag")
DataType = _recorded("DataType")
MemoryPoolType = _recorded("MemoryPoolType")
NetworkDefinitionCreationFlag = _recorded("NetworkDefinitionCreationFlag")
TacticSource = _recorded("TacticSource")
# ONNX's numbers of formats (onnx.proto) to numpy's and ours.
_FORMATS = {1: (np.float32, "FLOAT"), 10: (np.float16, "HALF")}


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity, message):
        raise NotImplementedError


class IHostMemory(bytes):
    nbytes = property(len)


class INetworkDefinition:
    def __init__(self, flags):
        self._explicit = _MAJOR >= 10 or bool(flags & 1 << NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        typed = NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        self._typed = _MAJOR >= 11 or (typed is not None and bool(flags & 1 << typed))
        self._model = None


class ParserError:
    def __init__(self, number, node, text):
        self._told = number, node.name, node.op_type, text

    def node(self):
        return self._told[0]

    def node_name(self):
        return self._told[1]

    def node_operator(self):
        return self._told[2]

    def desc(self):
        return self._told[3]


class OnnxParser:
    """FAKE_FAULT=unknown:OP: rejects every operator OP and reports each; reports nothing else about the model."""

    def __init__(self, network, log):
        self._network, self._log, self._errors = network, log, []

    def parse_from_file(self, path):
        import onnx

        if not self._network._explicit:
            self._log.log(ILogger.Severity.ERROR, "this version of the parser only takes explicit batches")
            return False
        model = self._network._model = onnx.load(path)
        unknown = _FAULT.partition("unknown:")[2]
        self._errors = [
            ParserError(number, node, f"No importer registered for op: {unknown}")
            for number, node in enumerate(model.graph.node)
            if node.op_type == unknown
        ]
        return not self._errors

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


class ITimingCache:
    def __init__(self, content):
        self._times = json.loads(bytes(content) or b"{}")

    def serialize(self):
        return IHostMemory(json.dumps(self._times, sort_keys=True).encode())


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    def __init__(self):
        # Defaults as the API's documentation has them.
        self._flags = {BuilderFlag.TF32}
        self._sources = 0
        for name in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"):
            self._sources |= 1 << TacticSource[name]
        if _MAJOR < 10:
            for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
                self._sources |= 1 << TacticSource[name]
        self._profiles, self._pools, self._cache = [], {}, ITimingCache(b"")
        self.builder_optimization_level = 3

    def set_flag(self, flag):
        self._flags.add(BuilderFlag(flag))

    def clear_flag(self, flag):
        self._flags.discard(BuilderFlag(flag))

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[MemoryPoolType(pool).name] = pool_size

    def get_tactic_sources(self):
        return self._sources

    def set_tactic_sources(self, tactic_sources):
        self._sources = tactic_sources
        return True

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return -1 if _FAULT == "profile" else len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        made_by = cache._times.get("version", __version__)
        self._cache = cache
        return ignore_mismatch or made_by == __version__

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, log):
        if _FAULT == "start":
            log.log(ILogger.Severity.INTERNAL_ERROR, "a library is damaged")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._log = log

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        model = network._model
        formats = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
        half = BuilderFlag.__members__.get("FP16")
        if 10 in formats and not network._typed and half not in config._flags:
            self._log.log(ILogger.Severity.ERROR, "Network has FP16 tensors and the FP16 flag is not set")
            return None
        if network._typed and half in config._flags:
            self._log.log(ILogger.Severity.ERROR, "a strongly typed network takes no precision flag")
            return None
        if _FAULT == "build":
            self._log.log(ILogger.Severity.ERROR, "Could not find any implementation for node {ForeignNode}")
            return None
        if _FAULT == "slow":
            Path(os.environ["FAKE_STARTED"]).write_text(str(os.getpid()))
            signal.pause()
        if _FAULT == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if _FAULT == "bug":
            raise RuntimeError("what nobody thought of")
        if _FAULT == "prints":
            os.write(1, b"a library says hello\n")
        config._cache._times["version"] = __version__
        config._cache._times.update(dict.fromkeys({node.op_type for node in model.graph.node}, 1))
        plan = {
            "version": __version__,
            "profile": config._profiles[0]._shapes,
            "flags": sorted(flag.name for flag in config._flags),
            "sources": [source.name for source in TacticSource if config._sources & 1 << source],
            "pools": config._pools,
            "level": config.builder_optimization_level,
            "typed": network._typed,
        }
        content = model.SerializeToString()
        head = json.dumps(plan).encode()
        return IHostMemory(head + b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shape, self._addresses = engine, None, {}

    def set_input_shape(self, name, shape):
        smallest, _, largest = self._engine._plan["profile"][name]
        fits = all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))
        self._shape = tuple(shape) if fits else None
        return fits

    def get_tensor_shape(self, name):
        assert name == "features"
        zeros = np.zeros(self._shape, self._engine._formats["pixels"][0])
        return list(self._engine._evaluator.run(None, {"pixels": zeros})[0].shape)

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        if _FAULT == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if _FAULT == "execute" or not stream_handle:
            self._engine._log.log(ILogger.Severity.ERROR, "Cask convolution execution")
            return False
        engine = self._engine
        shape, dtype = self._shape, engine._formats["pixels"][0]
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raw = ctypes.string_at(self._addresses["pixels"], size)
        (features,) = engine._evaluator.run(None, {"pixels": np.frombuffer(raw, dtype).reshape(shape)})
        made = np.ascontiguousarray(features, engine._formats["features"][0])
        ctypes.memmove(self._addresses["features"], made.ctypes.data, made.nbytes)
        return True


class ICudaEngine:
    def __init__(self, log, plan, content):
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._log, self._plan = log, plan
        model = onnx.load_from_string(content)
        self._evaluator = ReferenceEvaluator(model)
        values = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
        self._names = list(values)
        self._formats = {name: _FORMATS[value.elem_type] for name, value in values.items()}
        self._shapes = {
            name: [size.dim_value or -1 for size in value.shape.dim] for name, value in values.items()
        }

    @property
    def num_io_tensors(self):
        return len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return DataType[self._formats[name][1]]

    def get_tensor_shape(self, name):
        return self._shapes[name]

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return self._plan["profile"][name]

    def create_execution_context(self):
        return None if _FAULT == "context" else IExecutionContext(self)


class Runtime:
    def __init__(self, log):
        self._log = log

    def deserialize_cuda_engine(self, serialized_engine):
        head, digest, content = bytes(serialized_engine).split(b"\n", 2)
        if hashlib.sha256(content).hexdigest().encode() != digest:
            self._log.log(
                ILogger.Severity.ERROR, "Serialization assertion stdArchiveReader failed. Magic tag"
            )
            return None
        return ICudaEngine(self._log, json.loads(head), content)


def _keep_only_recorded():
    for name, names in _RECORDED["classes"].items():
        own = globals().get(name)
        for attribute in list(vars(own) if own else ()):
            if not attribute.startswith("_") and attribute not in names and attribute != "Severity":
                delattr(own, attribute)


_keep_only_recorded()
