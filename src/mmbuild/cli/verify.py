"""``mmbuild verify``: compare a built engine with its source model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mmbuild.base.errors import MmbuildError
from mmbuild.base.field_checks import (
    digest,
    integer,
    list_of,
    mapping_of,
    number,
    optional,
    record,
    text,
    word,
)
from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.evaluation import engine_manifest

_DEFAULT_NEW_TOKENS = 32
_BEFORE_QUESTION = 32
"""Characters of the columns before the question."""
_MEASURED = record(
    {"prompts": list_of(text(1_000_000), 100_000), "max_new_tokens": integer(1, 1 << 22)},
    may_lack=("prompts", "max_new_tokens"),
    closed=False,
)
_GATE = record({"bound": number(-1e300, 1e300), "origin": word}, may_lack=("origin",), closed=False)
_VERIFIED = record(
    {"gates": mapping_of(_GATE, 100), "weights": optional(word)},
    may_lack=("gates", "weights"),
    closed=False,
)


@commands.command("verify")
@build_arguments("build")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Model directory (default: the source model of the build).",
)
@click.option(
    "--image", "images", multiple=True, metavar="FILE", help="Image file (default: those of the recipe)."
)
@click.option("--prompt", "prompts", multiple=True, help="Prompt (default: those of the recipe).")
@options.max_new_tokens_option(
    "Maximum tokens per question (default: from the recipe, or 32).", click.IntRange(min=1)
)
@options.output_option("Write the report to this file (default: BUILD/report.json).", old=("--out",))
@options.json_option("the whole report")
@options.store
@options.check_option
@click.pass_context
def command(
    context: click.Context,
    *,
    build: Path,
    model: Path | None,
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    max_new_tokens: int | None,
    output: Path | None,
    as_json: bool,
    store: Path | None,
    check: bool,
) -> None:
    """Compare a built engine with transformers running the source model.

    Both sides answer every prompt about every image. An unquantized engine must give the same greedy tokens up
    to rounding, and a quantized one must pass the gates of its recipe; otherwise the exit status is 1. The report
    gives the first differing token of each question with the logits of both sides; report.html next to it shows
    the same with plots and images.

    For an engine of backend tensorrt-llm, the upstream runner performs its own accuracy check instead: a built-in
    question about a built-in image, with a known answer.

    \b
    Example:
      mmbuild verify build/llava-shapes-int4
      mmbuild verify build/llava-1.5-7b-int4 --image a.png --prompt "What is this?" --json
    """
    from mmbuild.backends.base import VerifyRequest
    from mmbuild.backends.table import backend
    from mmbuild.base.errors import MmbuildError
    from mmbuild.cli.output import print_status
    from mmbuild.models.image_files import require_usable
    from mmbuild.models.validation.prompts import require_unicode

    if problem := options.unwritable(output):
        raise MmbuildError(problem[0], code="MM562", hint=problem[1])
    require_unicode(prompts)
    require_usable(Path(image) for image in images)
    description = options.checked_engine(build, check=check)  # fail early if it is not an engine
    runner = backend(description.backend).open(build, description, print_status)
    options.refuse_others(context, runner.verify_options, "verify")
    sources = {"model": model} if model else _sources_of(build, store) if runner.compares else {}
    request = VerifyRequest(
        sources={name: str(path) for name, path in sources.items()},
        images=images,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        out=str(output or build / "report.json"),
        as_json=as_json,
    )
    for line in runner.verify(request, "mmbuild.cli.verify:compare"):
        click.echo(line)


def compare(
    *,
    build: str,
    sources: Mapping[str, str],
    images: Sequence[str],
    prompts: Sequence[str],
    max_new_tokens: int | None,
    out: str,
    as_json: bool,
) -> None:
    """Load the engine, compare, write the report and check the gates, within one process or rank.

    Raises:
        VerifyError, GateError: see :func:`mmbuild.steps.verify.require_agreement`.
    """
    from mmbuild.base.status_line import working
    from mmbuild.cli.output import print_note
    from mmbuild.cli.tables import terminal_width

    requested = _recorded_questions(Path(build))
    with working("verifying") as progress:
        progress("loading the engine", None)
        from mmbuild.backends.table import load_engine
        from mmbuild.evaluation import thumbnails
        from mmbuild.steps import measure, verify

        engine = load_engine(Path(build))  # checked by the command before ranks were started
        shown = measure.open_images(list(images) or requested.get("images") or (), engine)
        measures = measure.measure(
            engine,
            Path(build),
            {name: Path(path) for name, path in sources.items()},
            prompts=measure.questions(engine, prompts or requested.get("prompts") or ()),
            images=shown,
            max_new_tokens=min(
                max_new_tokens or requested.get("max_new_tokens") or _DEFAULT_NEW_TOKENS,
                engine.max_output_len,
            ),
            progress=progress,
        )
    gates = _recorded_gates(Path(build), engine.quant_algo)
    report = verify.report_of(measures, gates["gates"], gates["weights"], gates["engine"])
    small = {number: thumbnails.small(image) for number, image in enumerate(shown, 1)}
    verify.write(report, small, Path(out), recipe=engine_manifest.recipe(Path(build)) or Path(build).name)
    click.echo(json.dumps(report, indent=2) if as_json else render(report, terminal_width()))
    print_note(f"report: {out}, {verify.page_path(Path(out))}")
    verify.require_agreement(report)


def _recorded_questions(build: Path) -> dict[str, Any]:
    """Prompts, token limit and images of the recipe's verify section; no images unless all still exist."""
    actions = engine_manifest.actions(build, "measure")
    if not actions:
        return {}
    action = actions[0]
    problem = _MEASURED(action.get("params", {}), "params")
    if problem is not None:
        raise _unusable(build, problem)
    locators = sorted(action.get("locators", {}).items(), key=lambda item: (len(item[0]), item[0]))
    images = [path for _, path in locators if Path(path).is_file()]
    return {**action.get("params", {}), "images": images if len(images) == len(locators) else []}


def _recorded_gates(build: Path, quant_algo: str | None) -> dict[str, Any]:
    """The gates that apply checks for ``build``: ``gates``, ``weights`` and the digest of the ``engine``.

    If the engine was built without verification or has no manifest, these are the usual gates of its ``quant_algo``.
    """
    from mmbuild.evaluation.bounds import usual_bounds

    engine = engine_manifest.engine(build)
    verify_actions = engine_manifest.actions(build, "verify")
    params = verify_actions[0].get("params", {}) if verify_actions else {}
    problem = _VERIFIED(params, "params")
    if problem is not None:
        raise _unusable(build, problem)
    if "gates" in params:
        return {"gates": params["gates"], "weights": params["weights"], "engine": engine}
    weights = engine_manifest.weights(build)
    return {
        "gates": {} if weights == "dummy" else usual_bounds(quant_algo),
        "weights": weights,
        "engine": engine,
    }


def _unusable(build: Path, problem: str) -> MmbuildError:
    from mmbuild.steps.verify import VerifyError

    return VerifyError(
        f"`{build / engine_manifest.NAME}` is damaged: {problem}", code="MM763", hint="apply its recipe again"
    )


def _sources_of(build: Path, store: Path | None) -> dict[str, Path]:
    """Directories of the source models of ``build`` in the store, by ``model`` and ``vision``.

    Raises:
        VerifyError: The manifest is missing, or a model is no longer in the store.
    """
    from mmbuild.core.store.layout import open_store
    from mmbuild.steps.verify import VerifyError

    actions = engine_manifest.actions(build, "download")
    if not actions:
        raise VerifyError(
            f"`{build}/manifest.json` does not say which model the engine was built from",
            code="MM561",
            hint="apply its recipe again, or give the model directory with --model",
        )
    opened = open_store(store)
    sources = {}
    for action in actions:
        if digest(action.get("artifact"), "artifact") is not None or not opened.has(action["artifact"]):
            raise VerifyError(
                f"the model that `{build}` was built from is not in the store `{opened.root}`",
                code="MM561",
                hint="give the store with --store, apply the recipe again, or give the model directory with --model",
            )
        sources[action.get("params", {}).get("source", "model")] = opened.tree(action["artifact"])
    return sources


def render(report: Mapping[str, Any], width: int | None = None) -> str:
    """A report as a table with a summary, folded to ``width`` columns.

    All numbers count tokens up to and including the end token.
    """
    from mmbuild.base.folding import fold, fold_all
    from mmbuild.steps.verify import shortened

    lines = [f"{'image':<7}{'equal tokens':<14}{'mean KL':<11}question -> engine (reference)"]
    for entry in report["questions"]:
        engine, reference = (shortened(entry["answers"][side]) for side in ("engine", "reference"))
        other = "" if engine == reference else f" ({reference})"
        count = f"{entry['equal_prefix']}/{len(entry['reference_tokens'])}"
        question = shortened(entry["prompt"] or "the page")
        lines.append(f"{entry['image']:<7}{count:<14}{entry['mean_kl']:<11.2e}{question} -> {engine}{other}")
    lines += [f"image {number}: {how}" for number, how in report["conversions"].items()]
    table = [fold(line, width, " " * _BEFORE_QUESTION) for line in lines]
    return "\n".join([*table, "", fold_all("\n".join(_summary(report)), width)])


def _summary(report: Mapping[str, Any]) -> list[str]:
    from mmbuild.evaluation.gates import describe as describe_gate
    from mmbuild.steps.verify import describe

    summary = report["summary"]
    kind = f"{summary['dtype']}, {summary['quant_algo'] or 'not quantized'}"
    lines = [
        f"{summary['identical']} of {summary['questions']} answers have the same tokens up to the end token, "
        f"{summary['ties']} differ only by rounding ({kind})",
        f"over the {summary['tokens']} tokens of the reference's answers: {summary['equal_tokens']} equal before the "
        f"first difference, top-1 {summary['top1_agreement']:.1%}, mean KL {summary['mean_kl']:.2e}, "
        f"largest {summary['max_kl']:.2e}; {summary['answer_agreement']:.1%} of the answers have the same text",
    ]
    lines += [
        f"gate {'passed' if gate['passed'] else 'FAILED'}: {describe_gate(gate)}" for gate in report["gates"]
    ]
    if report["weights"] == "dummy":
        lines.append("the weights are random: quality is meaningless")
    differing = [entry for entry in report["questions"] if entry["difference"] is not None]
    return lines + [f"first difference: {describe(entry)}" for entry in differing[:1]]
