"""``mmbuild compare``: several builds side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mmbuild.base.folding import blocks, table
from mmbuild.base.formatting import size_text
from mmbuild.cli import commands, options
from mmbuild.cli.answers_text import answer_lines
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.tables import print_folded, terminal_width


@commands.command("compare")
@build_arguments("builds", nargs=-1, metavar="BUILD|FILE...")
@click.option(
    "--answers",
    type=click.Choice(["different", "all"]),
    help="Also list questions with the answers of each build: those answered differently, or all.",
)
@options.json_option()
@options.check_option
def command(*, builds: tuple[Path, ...], answers: str | None, as_json: bool, check: bool) -> None:
    """Compare precision, size, build cost, quality and speed of builds side by side, and results of bench and eval.

    Reads only the build directories; nothing is loaded or measured. Quality comes from the last `mmbuild verify`
    of a build, otherwise from its apply. Speed is shown if a profile was saved:

    \b
      mmbuild run BUILD --image a.png --prompt "..." --json > BUILD/profile.json

    --answers puts the answers in these reports side by side, for instance of a build for TensorRT-LLM and of the
    checkpoint that replaces it.

    FILEs are results that `mmbuild bench -o FILE` or `mmbuild eval -o FILE` wrote. Runs of bench form a second table,
    equal loads together. Scores of eval form a third, with differences to the first result over the questions that
    both answered.

    \b
    Example:
      mmbuild compare build/llava-shapes build/llava-shapes-int4
      mmbuild compare build/llava-trt build/llava-hf --answers different
      mmbuild compare int4.json vllm.json
    """
    files = [path for path in builds if path.is_file() and path.suffix not in (".yaml", ".yml")]
    directories = [path for path in builds if path not in files]
    comparison = _comparison(directories, files, check)
    if answers is not None and directories:
        from mmbuild.inspect.compare_answers import side_by_side

        comparison["answers"] = side_by_side(directories)
    if as_json:
        click.echo(json.dumps(comparison, indent=2, ensure_ascii=False))
        return
    if comparison["builds"]:
        click.echo(render(comparison, terminal_width()))
    if "answers" in comparison:
        print_folded(
            "\n".join(["", *answer_lines(comparison["answers"], only_different=answers == "different")])
        )
    if "results" in comparison:
        _print_results(comparison["results"], after=bool(comparison["builds"]))
    if "evaluations" in comparison:
        _print_evaluations(comparison, after=bool(comparison["builds"] or "results" in comparison))
    if comparison["notes"]:
        print_folded("\n".join(["", *(f"note: {note}" for note in comparison["notes"])]))


def _comparison(builds: Sequence[Path], files: Sequence[Path], check: bool) -> dict[str, Any]:
    """Builds, with files of bench also ``results``, with files of eval also ``evaluations``, each as its own
    comparison returns them; notes of all."""
    from mmbuild.base.status_line import working
    from mmbuild.evaluation.answers.document import is_result
    from mmbuild.inspect.compare_builds import compare

    for build in builds:
        options.checked_engine(build, check=check, runs=False)
    with working("comparing"):
        found: dict[str, Any] = compare(builds) if builds else {"version": 1, "builds": [], "notes": []}
    scored = [path for path in files if is_result(path)]
    measured = [path for path in files if path not in scored]
    if measured:
        from mmbuild.serving.bench import comparison as bench

        found = _with_notes(found, bench.compare_results(measured))
    if scored:
        from mmbuild.evaluation.answers import comparison as evaluation

        found = _with_notes(found, evaluation.compare_results(scored))
    return found


def _with_notes(found: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, **more, "notes": [*found["notes"], *more["notes"]]}


def _print_evaluations(comparison: Mapping[str, Any], *, after: bool) -> None:
    from mmbuild.evaluation.answers.tables import comparison_table

    if after:
        click.echo()
    click.echo(comparison_table(comparison["evaluations"]))


def _print_results(results: Sequence[Mapping[str, Any]], *, after: bool) -> None:
    from mmbuild.serving.bench.comparison import rows
    from mmbuild.serving.bench.rows import failure_lines
    from mmbuild.serving.bench.table import print_table

    if after:
        click.echo()
    print_table(rows(results), named=True)
    for result in results:
        for line in failure_lines(result):
            click.echo(f"{result['label']}, {line}")


def render(comparison: Mapping[str, Any], width: int | None = None) -> str:
    """The table, with one build per column; below one another if they do not fit into ``width``."""
    builds = comparison["builds"]
    rows = [["", *names(builds)]]
    for title, value in _ROWS:
        cells = [_cell(value, build) for build in builds]
        if set(cells) != {"-"}:
            rows.append([title, *cells])
    return "\n\n".join("\n".join(table(block)) for block in blocks(rows, width))


def names(builds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column titles: the last part of each path if these are unique, otherwise the whole paths."""
    short = [Path(build["name"]).name for build in builds]
    return short if len(set(short)) == len(short) else [str(build["name"]) for build in builds]


def _cell(value: Callable[[Mapping[str, Any]], str], build: Mapping[str, Any]) -> str:
    """``value(build)``, or ``-`` if the build does not have it."""
    try:
        return value(build)
    except (TypeError, KeyError):  # None instead of a number, or a missing key
        return "-"


def _named(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda build: "-" if build[key] is None else str(build[key])


def _of_quality(name: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda build: format(build["quality"][name], form)


_ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("family", _named("family")),
    ("backend", _named("backend")),
    ("device", _named("device")),
    ("ranks", _named("ranks")),
    ("dtype", _named("dtype")),
    ("quantization", lambda build: build["quant_algo"] or ("none" if build["dtype"] else "-")),
    ("weights", lambda build: size_text(build["bytes"]["weights"])),
    ("packages", lambda build: size_text(build["bytes"]["packages"])),
    ("building took", lambda build: f"{build['building']['seconds']:.1f} s"),
    ("building's peak memory", lambda build: size_text(build["building"]["peak_memory"])),
    ("questions", _named("questions")),
    ("answers that agree", _of_quality("min_answer_agreement", ".1%")),
    ("mean KL, nats", _of_quality("max_kl", ".3g")),
    ("perplexity ratio", _of_quality("max_perplexity_ratio", ".5g")),
    ("equal greedy tokens", _of_quality("min_greedy_prefix", ".1f")),
    ("gates passed", lambda build: "{} of {}".format(*build["gates"]) if build["gates"][1] else "none set"),
    ("refused by apply", lambda build: "yes" if build["refused"] else "-"),
    ("tokens/s", lambda build: f"{build['speed']['tokens_per_second']:.1f}"),
    ("running's peak memory", lambda build: size_text(build["speed"]["peak_bytes"])),
)
