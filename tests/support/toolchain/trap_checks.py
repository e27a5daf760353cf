"""What must be true of every command that mmbuild writes, trap by trap.

A check reads command lines by the recorded flags of the version (tests/contracts), the recipe's numbers and the
model's shapes; it knows nothing of toolchain files. It yields one pair for each thing that it looked at: whether it
is right, and what it is.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmbuild.backends.tensorrt_llm.toolchains.commands import Command
from mmbuild.schema.resolved import ResolvedRecipe
from support.toolchain.strict_flags import Flags, contract, parse, program

Found = Iterator[tuple[bool, str]]
SCRIPTED = ("convert", "quantize", "build_llm", "build_visual", "run")
OLD = ("0.9.0.dev2024040900", "0.9.0")
# Families whose language model reads a prompt table in its first layer.
DECODERS = ("blip2-opt", "llava", "vila")


@cache
def flags(version: str) -> Mapping[str, Flags]:
    """The recorded flags of a version."""
    return contract(version)


@dataclass(frozen=True)
class Call:
    """A command as its program reads it."""

    name: str
    step: str
    program: str
    given: Mapping[str, Any]
    ranks: int
    argv: Sequence[str]

    @property
    def script(self) -> str:
        return posixpath.basename(self.program)


@dataclass(frozen=True)
class Case:
    """A recipe and its commands for a version."""

    variant: ResolvedRecipe
    version: str
    calls: Sequence[Call]

    def named(self, *names: str) -> Iterator[Call]:
        return (call for call in self.calls if call.name in names)

    @property
    def family(self) -> str:
        return self.variant.facts.family

    @property
    def engine(self) -> Any:
        return self.variant.recipe.engine

    @property
    def features(self) -> int:
        """Visual features of one prompt."""
        return self.engine.max_images_per_prompt * self.variant.facts.visual.num_visual_features


def read(variant: ResolvedRecipe, version: str, steps: Sequence[Command]) -> Case:
    """The commands, read strictly: no abbreviation, no unknown or repeated flag, no wrong type or choice."""
    calls = []
    for step in steps:
        if step.step in SCRIPTED:
            name, arguments, ranks = program(step.argv, step.workdir)
            given = parse(flags(version)[name], arguments)
            calls.append(Call(step.name, step.step, name, given, ranks, step.argv))
    return Case(variant, version, calls)


TABLE = "--max_prompt_embedding_table_size"
Check = Callable[[Case], Found]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Put a check into :data:`CHECKS`; names begin with the number of the trap."""

    def add(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return add


def _with_table(case: Case) -> Iterator[Call]:
    """The builds that read a prompt table: decoders, and T5's encoder."""
    if case.family in DECODERS:
        yield from case.named("build_llm")
    elif case.family == "blip2-t5":
        yield from case.named("build_llm", "build_encoder")


@check("01-the-prompt-table-holds-every-feature-of-a-full-batch")
def _table_size(case: Case) -> Found:
    needed = case.engine.max_batch_size * case.features
    for call in _with_table(case):
        yield call.given[TABLE] >= needed, f"{call.given[TABLE]} rows for {needed} features"


@check("02-the-prompt-table-never-has-one-row")
def _table_of_one(case: Case) -> Found:
    for call in case.calls:
        if TABLE in call.given:
            yield call.given[TABLE] > 1, f"{call.name} {TABLE} {call.given[TABLE]}"


@check("03-the-prompt-table-is-always-there")
def _table_there(case: Case) -> Found:
    for call in _with_table(case):
        yield call.given.get(TABLE, 0) > 0, call.name


@check("04-the-longest-input-holds-features-and-text")
def _input(case: Case) -> Found:
    for call in case.calls:
        if call.step != "build_llm" or case.family == "nougat":
            continue
        lengths = [call.given.get(flag, 0) for flag in ("--max_input_len", "--max_encoder_input_len")]
        yield max(lengths) > case.features, f"{call.name}: {lengths} for {case.features} features"


@check("05-nougats-cross-attention-is-as-long-as-one-page")
def _nougat(case: Case) -> Found:
    for call in case.named("build_llm", "build_decoder"):
        if case.family == "nougat":
            length = call.given[TABLE if case.version in OLD else "--max_encoder_input_len"]
            yield length == case.variant.facts.visual.num_visual_features, f"{length}"


@check("06-t5s-encoder-with-a-prompt-table-removes-padding")
def _padding(case: Case) -> Found:
    for call in _with_table(case):
        if case.family == "blip2-t5":
            yield call.given.get("--remove_input_padding") in (True, "enable"), call.name


def _quantized(case: Case) -> bool:
    return any(
        call.step == "quantize" or (call.step == "convert" and "--use_weight_only" in call.given)
        for call in case.calls
    )


@check("07-quantized-weights-are-never-fused")
def _fused(case: Case) -> Found:
    gated = case.variant.facts.llm.mlp_type == "GatedMLP" and case.family in DECODERS
    for call in case.calls:
        if call.program == "trtllm-build":
            requested = call.given.get("--use_fused_mlp")
            # In the latest version it is on by default.
            on = requested in (True, "enable") or (requested is None and case.version == "1.2" and gated)
            yield not (on and _quantized(case)), f"{call.name} {requested}"


@check("08-a-precision-is-never-said-without-the-switch")
def _precision(case: Case) -> Found:
    for call in case.calls:
        if call.step == "convert":
            said = ["--weight_only_precision" in call.given, "--use_weight_only" in call.given]
            yield len(set(said)) == 1, call.name


@check("09-converters-of-encoder-decoders-are-asked-for-plain-weights")
def _encoder_decoder(case: Case) -> Found:
    for call in case.calls:
        if "/enc_dec/" in call.program:
            yield not {"--use_weight_only", "--weight_only_precision"} & set(call.given), call.name


@check("10-the-converter-is-never-asked-for-smoothquant-or-an-int8-cache")
def _smoothquant(case: Case) -> Found:
    wrong = {"--smoothquant", "--per_channel", "--per_token", "--int8_kv_cache"}
    for call in case.calls:
        if call.script == "convert_checkpoint.py":
            yield not wrong & set(call.given), call.name


@check("11-the-quantizer-runs-where-it-can-read-the-model")
def _quantizer(case: Case) -> Found:
    readable = {("vila", "0.12.0"), ("vila", "1.2"), ("llava", "1.2")}
    for call in case.calls:
        required = case.engine.quantization.algorithm in ("int4_awq", "smoothquant", "fp8")
        yield call.step != "quantize" or (case.family, case.version) in readable, call.name
        yield not required or call.step != "convert", call.name


@check("12-the-quantizer-makes-calibrated-formats-of-at-most-32-samples")
def _samples(case: Case) -> Found:
    for call in case.calls:
        if call.step == "quantize":
            yield call.given["--qformat"] not in ("int8_wo", "int4_wo"), call.given["--qformat"]
            yield call.given["--calib_size"] <= 32, str(call.given["--calib_size"])


@check("13-vila-stands-in-the-paths-of-vila-alone")
def _vila(case: Case) -> Found:
    for call in case.calls:
        for token in _paths(call):
            if case.family != "vila":
                yield "vila" not in token.lower(), token
        model = call.given.get("--model_dir") or call.given.get("--model_path")
        if model and case.family == "vila":
            yield "vila" in model, model
            beside = posixpath.normpath(posixpath.join(model, "..", "VILA"))
            yield call.given.get("--vila_path", beside) == beside, str(call.given.get("--vila_path"))


def _paths(call: Call) -> Iterator[str]:
    """Arguments that are not a question; flags of paths only, words of `--model_type` are none."""
    for flag, value in call.given.items():
        if isinstance(value, str) and flag not in ("--input_text", "--model_type"):
            yield value


@check("15-caches-keep-the-models-format")
def _cache(case: Case) -> Found:
    wrong = {"--int8_kv_cache", "--kv_cache_dtype", "--use_paged_context_fmha", "--multi_block_mode"}
    for call in case.calls:
        yield not wrong & set(call.given), call.name


@check("16-plugins-have-the-checkpoints-format")
def _plugins(case: Case) -> Found:
    dtype = case.engine.dtype.value
    automatic = "auto" if case.version in ("0.12.0", "1.2") else "float16"
    required = ["--gpt_attention_plugin"] + (["--bert_attention_plugin"] if case.family == "blip2-t5" else [])
    for call in case.calls:
        if call.program == "trtllm-build":
            yield call.given["--gemm_plugin"] == dtype, f"{call.name} {call.given['--gemm_plugin']}"
            for flag in required:
                yield call.given.get(flag, automatic) in (dtype, "auto"), f"{call.name} {flag}"
        elif call.script == "build.py":
            yield call.given["--dtype"] == dtype, call.name


@check("17-builds-of-encoder-decoders-switch-their-attention-plugins-on")
def _old_plugins(case: Case) -> Found:
    for call in case.calls:
        if call.script == "build.py":
            for flag in ("--use_bert_attention_plugin", "--use_gpt_attention_plugin", "--use_gemm_plugin"):
                yield call.given.get(flag) is True, flag


@check("18-t5-is-never-float16")
def _t5(case: Case) -> Found:
    for call in case.calls:
        if case.family == "blip2-t5" and "--dtype" in call.given:
            yield call.given["--dtype"] != "float16", call.name


@check("19-flags-are-whole-and-switches-of-trtllm-build-have-values")
def _whole(case: Case) -> Found:
    known = flags(case.version)
    for call in case.calls:
        names = {name for key in known[call.program] for name in key.split()}
        # A value that begins with a dash is joined to its flag.
        written = [token.partition("=")[0] for token in call.argv if token.startswith("-")]
        started = {"-n", "--allow-run-as-root"} if call.ranks > 1 else set()
        yield set(written) <= names | started, f"{call.name}: {sorted(set(written) - names)}"
        for flag in ("--remove_input_padding", "--paged_kv_cache", "--context_fmha"):
            if call.program == "trtllm-build" and flag in call.given:
                yield call.given[flag] in ("enable", "disable"), f"{call.name} {flag}"


@check("20-ranks-are-said-where-weights-are-converted")
def _ranks(case: Case) -> Found:
    ranks = case.engine.tensor_parallel
    for call in case.calls:
        if call.program == "trtllm-build":
            yield not {"--tp_size", "--pp_size"} & set(call.given), call.name
        elif call.step in ("convert", "quantize", "build_llm"):
            said = call.given.get("--inference_tensor_para_size", call.given.get("--tp_size", 1))
            yield (said, call.given.get("--pp_size", 1)) == (ranks, 1), call.name
        if call.script == "build.py":
            yield call.given.get("--world_size", 1) == ranks, call.name
            yield call.given["--weight_dir"].endswith(f"/tp{ranks}"), call.given["--weight_dir"]


@check("21-engines-run-on-as-many-ranks-as-they-have")
def _mpirun(case: Case) -> Found:
    ranks = case.engine.tensor_parallel
    for call in case.calls:
        yield call.ranks == (ranks if call.step == "run" else 1), f"{call.name} on {call.ranks}"
        if call.step in ("convert", "quantize"):
            yield case.variant.facts.llm.num_attention_heads % ranks == 0, call.name


@check("22-embeddings-are-whole-and-opts-head-divides")
def _embeddings(case: Case) -> Found:
    wrong = {"--use_parallel_embedding", "--use_embedding_sharing", "--embedding_sharding_dim"}
    for call in case.calls:
        yield not wrong & set(call.given), call.name
    if case.family == "blip2-opt":
        yield case.variant.facts.llm.vocab_size % case.engine.tensor_parallel == 0, "vocabulary"


@check("23-a-full-batch-of-longest-prompts-fits-the-token-budget")
def _budget(case: Case) -> Found:
    for call in case.calls:
        if call.program != "trtllm-build":
            continue
        given = call.given
        yield not {"--multiple_profiles", "--opt_num_tokens"} & set(given), call.name
        yield given["--max_batch_size"] == case.engine.max_batch_size, call.name
        needed = given["--max_batch_size"] * given["--max_input_len"]
        budget = needed if case.version not in ("0.12.0", "1.2") else 8192
        yield given.get("--max_num_tokens", budget) >= needed, f"{call.name}: {needed}"


@check("24-lengths-are-what-the-version-takes")
def _lengths(case: Case) -> Found:
    engine, newer = case.engine, case.version in ("0.12.0", "1.2")
    prompt = engine.max_input_len if case.family in DECODERS else 1
    for call in case.calls:
        if call.step != "build_llm" or call.name == "build_encoder":
            continue
        given = call.given
        if newer:
            yield "--max_output_len" not in given, call.name
            yield given["--max_seq_len"] >= prompt + engine.max_output_len, f"{given['--max_seq_len']}"
        else:
            yield given["--max_output_len"] == engine.max_output_len, call.name
    for call in case.calls:
        if call.step == "build_llm" and (case.version, case.family) == ("0.12.0", "blip2-t5"):
            lengths = [call.given.get(flag, 0) for flag in ("--max_input_len", "--max_seq_len")]
            yield max(lengths) <= 512, f"{call.name}: {lengths}"


@check("27-converters-are-told-their-model")
def _model(case: Case) -> Found:
    for call in case.calls:
        if call.step in ("convert", "quantize"):
            yield bool(call.given.get("--model_dir") or call.given.get("--input_dir")), call.name


@check("28-engines-are-named-after-the-models-directory")
def _names(case: Case) -> Found:
    for call in case.calls:
        for token in _paths(call):
            yield not token.endswith("/"), token
        if call.script == "build.py":
            (run,) = case.named("run")
            name = posixpath.basename(run.given["--hf_model_dir"])
            yield call.given["--engine_name"] == name != "", call.given["--engine_name"]


@check("29-t5s-prompt-table-is-said-twice")
def _twice(case: Case) -> Found:
    if (case.version, case.family) == ("0.10.0", "blip2-t5"):
        (convert,), (build,) = case.named("convert"), case.named("build_encoder")
        yield convert.given.get(TABLE) == build.given[TABLE], "convert and build_encoder"


@check("30-the-visual-builder-is-told-model-and-tower")
def _tower(case: Case) -> Found:
    for call in case.named("build_visual"):
        yield bool(call.given.get("--model_path")), "--model_path"
        vision = case.variant.recipe.model.vision
        if case.family.startswith("blip2") and case.version in (*OLD, "0.10.0"):
            source = vision.source if vision is not None else ""
            yield source.endswith(f"Salesforce/blip2-{call.given['--model_type']}"), source


@check("32-the-visual-engine-is-read-where-it-was-written")
def _visual_directory(case: Case) -> Found:
    (build,) = case.named("build_visual")
    model = posixpath.basename(build.given["--model_path"])
    written = build.given.get("--output_dir") or f"visual_engines/{model}"
    for call in case.named("run", "profile", "check_accuracy"):
        required = call.given.get("--visual_engine_dir") or f"{call.given['--engine_dir']}/vision"
        yield required == written, f"{required} and {written}"


@check("33-builders-start-one-worker")
def _workers(case: Case) -> Found:
    for call in case.calls:
        yield "--workers" not in call.given, call.name


@check("34-no-flag-is-given-that-is-ignored")
def _ignored(case: Case) -> Found:
    wrong = {"--model_cls_file", "--model_cls_name", "--save_config_only", "--timing_cache", "--nccl_plugin"}
    for call in case.calls:
        yield not wrong & set(call.given), call.name


# From issues, in addition to the 34.
@check("c1-both-engines-take-a-full-batch")
def _batches(case: Case) -> Found:
    pictures = case.engine.max_batch_size * case.engine.max_images_per_prompt
    for call in case.named("build_visual"):
        yield call.given.get("--max_batch_size") == pictures, str(call.given.get("--max_batch_size"))
    for call in case.calls:
        if call.step == "build_llm":
            yield call.given.get("--max_batch_size") == case.engine.max_batch_size, call.name


@check("c2-the-decoder-of-t5-has-no-prompt-table")
def _decoder(case: Case) -> Found:
    for call in case.named("build_decoder"):
        yield TABLE not in call.given, call.name
        yield call.given["--max_input_len"] == 1, call.name


@check("c3-a-dot-in-a-name-is-kept")
def _dots(case: Case) -> Found:
    # 0.10.0 cuts the model's name at its first dot if no directory is passed.
    for call in case.named("build_visual"):
        cut = case.version == "0.10.0" and "." in posixpath.basename(call.given["--model_path"])
        yield not cut or "--output_dir" in call.given, call.given["--model_path"]


@check("c4-answers-are-no-longer-than-the-engine-allows")
def _answers(case: Case) -> Found:
    for call in case.calls:
        if call.step == "run":
            requested = call.given.get("--max_new_tokens", 128 if case.version == "1.2" else 30)
            yield requested <= case.engine.max_output_len, f"{call.name} {requested}"
