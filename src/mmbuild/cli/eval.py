"""``mmbuild eval``: scores of a built engine on a data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.output import print_note
from mmbuild.cli.quantities import FiniteRange

if TYPE_CHECKING:
    from mmbuild.backends.base import Answers, Pair, Runner
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.base.errors import MmbuildError

_SCORES = ("exact", "normalized", "f1")
_RUNNER_OPTIONS = ("--max-new-tokens", "--batch")
"""Options that the runner of an engine's backend may lack."""


@commands.command("eval")
@build_arguments("build")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="JSONL file of pictures, prompts and answers.",
)
@click.option(
    "--score",
    "headline",
    type=click.Choice(_SCORES),
    default="normalized",
    show_default=True,
    help="Score for --min-score, and for which answers are wrong.",
)
@click.option("--min-score", type=FiniteRange(0, 1), help="Exit with 1 if the score is below this.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Ask only the first N questions.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Questions asked at once (default: max_batch_size)."
)
@options.max_new_tokens_option(
    "Maximum tokens per answer (default and limit: max_output_len).", click.IntRange(min=1)
)
@click.option(
    "--questions",
    "listed",
    type=click.Choice(("all", "wrong", "none")),
    help="Answers to list, the worst first (default: up to 10 wrong ones).",
)
@click.option(
    "--allow-outside", is_flag=True, help="Accept pictures that are not below the directory of --data."
)
@options.output_option("Write the result as JSON.")
@options.json_option("the result, instead of tables")
@options.check_option
@click.pass_context
def command(
    context: click.Context,
    *,
    build: Path,
    data: Path,
    headline: str,
    min_score: float | None,
    limit: int | None,
    batch: int | None,
    max_new_tokens: int | None,
    listed: str | None,
    allow_outside: bool,
    output: Path | None,
    as_json: bool,
    check: bool,
) -> None:
    """Score the answers of a built engine on a data set of pictures, prompts and answers.

    Each line of FILE is a question such as {"image": "a.png", "prompt": "how many ?", "answer": "two"}. `image` may
    be an array or null, `prompt` null, and `answer` an array of accepted answers. All lines are checked before the
    engine is loaded. Decoding is greedy and follows the model's generation settings.

    Exact match, normalized match and token F1 are printed with 95 % intervals; docs/eval.md defines them. Ctrl-C ends
    with the scores of the questions that were answered, and exit status 130.

    An engine is code: loading one executes it, as with `mmbuild run`.

    \b
    Example:
      mmbuild eval build/llava-shapes-int4 --data questions.jsonl --min-score 0.9
      mmbuild eval build/llava-shapes-int4 --data questions.jsonl -o int4.json
      mmbuild compare float32.json int4.json
    """
    from mmbuild.backends.base import RunRequest
    from mmbuild.backends.table import backend
    from mmbuild.cli.output import INTERRUPTED, print_status
    from mmbuild.evaluation.answers import questions as data_set

    if problem := options.unwritable(output):
        raise _unfit(*problem)
    questions = data_set.read(data, limit=limit, allow_outside=allow_outside)
    description = options.checked_engine(build, check=check)
    runner = backend(description.backend).open(build, description, print_status)
    pairs = data_set.pairs(questions)
    _require_support(context, build, description, runner, pairs)
    size = _batch(batch, description) if runner.run_options is None else 1
    for remark in runner.remarks(ignore_generation_config=False):
        print_note(remark)
    request = RunRequest(
        pairs,
        max_new_tokens,
        beams={"width": 1},
        batch=size,
        context={
            "engine": engine_facts(build, description),
            "data": str(data),
            "settings": {"max_new_tokens": max_new_tokens, "batch": size, "limit": limit},
            "headline": headline,
            "questions": [_without_paths(asdict(question)) for question in questions],
            "min_score": min_score,
            "listed": listed,
            "output": None if output is None else str(output),
            "as_json": as_json,
        },
        interruptible=True,
    )
    try:
        runner.run(request, "mmbuild.cli.eval:receive")
    except KeyboardInterrupt:
        print_status("interrupted")
        sys.exit(INTERRUPTED)


def _without_paths(question: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in question.items() if name != "paths"}


def _require_support(
    context: click.Context, build: Path, description: Description, runner: Runner, pairs: Sequence[Pair]
) -> None:
    """Refuse options and questions that the runner does not take.

    Raises:
        UsageError: MM705, options; MM893, questions.
    """
    supported = runner.run_options
    if supported is None:
        return
    own = {option for parameter in context.command.params for option in parameter.opts}
    options.refuse_others(context, supported | own.difference(_RUNNER_OPTIONS), "eval")
    needs = {
        "--image": ("pictures", any(images for images, _ in pairs)),
        "--prompt": ("prompts", any(prompt is not None for _, prompt in pairs)),
        "--together": ("several pictures for one prompt", any(len(images) > 1 for images, _ in pairs)),
    }
    for option, (what, needed) in needs.items():
        if needed and option not in supported:
            raise _unfit(
                f"the questions have {what}, which the runner of `{build}` (backend {description.backend}) does "
                "not take",
                "use other questions, or build the recipe with `--set engine.backend=torch`",
            )


def _batch(requested: int | None, description: Description) -> int:
    most = int(description.llm.get("max_batch_size", 1))
    if requested is not None and requested > most:
        raise _unfit(
            f"batches of {requested} are requested, but the engine supports 1 to {most}",
            "use smaller batches, or raise max_batch_size in the recipe",
        )
    return requested or most


def _unfit(message: str, hint: str) -> Exception:
    from mmbuild.base.errors import UsageError

    return UsageError(message, code="MM893", hint=hint)


def engine_facts(build: Path, description: Description) -> dict[str, Any]:
    """The ``engine`` of a result: its name, path, artifact, family, backend, precision and device."""
    from mmbuild.evaluation import engine_manifest

    engines = engine_manifest.actions(build, "assemble")
    return {
        "name": build.resolve().name,
        "path": str(build),
        "artifact": engines[0].get("artifact") if engines else None,
        "family": description.family,
        "backend": description.backend,
        "dtype": description.llm.get("dtype"),
        "quant_algo": description.llm.get("quant_algo"),
        "device": " ".join(
            str(description.target[key]) for key in ("device", "sm", "isa") if description.target.get(key)
        ),
    }


def receive(
    answers: Answers,
    _form: str,
    *,
    engine: Mapping[str, Any],
    data: str,
    settings: Mapping[str, Any],
    headline: str,
    questions: Sequence[Mapping[str, Any]],
    min_score: float | None,
    listed: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Take the answers of an engine, and show their scores, however the evaluation ends.

    Raises:
        MmbuildError: MM892, the score is too low; or why the evaluation ended early.
        KeyboardInterrupt: It was interrupted, and the scores of what was answered are shown.
    """
    from datetime import UTC, datetime

    from mmbuild.evaluation.answers.document import as_text, document

    texts, conversions, problem = _collect(answers, questions, data)
    if not texts and problem is not None:
        raise problem
    result = document(engine, data, settings, headline, questions, texts, datetime.now(UTC))
    click.echo(as_text(result) if as_json else _report(result, listed), nl=not as_json)
    for note in conversions:
        print_note(f"note: {note}")
    sys.stdout.flush()  # a rank that is interrupted ends at once
    if output is not None:  # after printing: a full disk must not lose the scores
        Path(output).write_text(as_text(result), encoding="utf-8")
    if problem is not None:
        raise problem
    _require_score(result, min_score)


def _collect(
    answers: Answers, questions: Sequence[Mapping[str, Any]], data: str
) -> tuple[list[str], list[str], BaseException | None]:
    """Texts of the answers, notes about how pictures were read, and why it ended early, if it did."""
    from mmbuild.base.errors import MmbuildError
    from mmbuild.base.progress import Amount
    from mmbuild.base.status_line import working

    texts: list[str] = []
    conversions: dict[str, None] = {}
    problem: BaseException | None = None
    total = len(questions)
    with working("answering", at_once=True) as progress:
        try:
            for answer in answers.answers:
                texts.append("\n".join(answer.texts))
                conversions |= dict.fromkeys(answer.notes)
                progress(f"{len(texts):,} of {total:,} answered", Amount(len(texts), total))
        except KeyboardInterrupt as error:
            problem = error
        except MmbuildError as error:
            problem = _with_place(error, data, questions[len(texts)])
    return texts, list(conversions), problem


def _with_place(error: MmbuildError, data: str, question: Mapping[str, Any]) -> MmbuildError:
    """``error``, whose message now names the first question of the batch that it ended."""
    error.message += f", in the batch of questions that begins at {data}:{question['line']}"
    return error


def _report(result: Mapping[str, Any], listed: str | None) -> str:
    from mmbuild.base.folding import fold
    from mmbuild.cli.tables import terminal_width
    from mmbuild.evaluation.answers import tables

    def lines() -> Iterator[str]:
        yield tables.score_table(result)
        yield from (fold(f"note: {note}", terminal_width()) for note in tables.notes(result))
        yield from tables.answer_lines(result, listed)

    return "\n".join(lines())


def _require_score(result: Mapping[str, Any], least: float | None) -> None:
    """Compare the headline score with ``least``, if there is one.

    Raises:
        MmbuildError: MM892, it is lower.
    """
    from mmbuild.base.errors import MmbuildError
    from mmbuild.evaluation.answers.tables import interval_text

    score = result["scores"][result["headline"]]
    if least is None or score["mean"] >= least:
        return
    interval = score["interval"]
    uncertain = interval is not None and interval[0] <= least <= interval[1]
    raise MmbuildError(
        f"score `{result['headline']}` is {score['mean']:.4g}, but --min-score requires {least:g}"
        + (f"; its 95 % interval, {interval_text(interval)}, contains {least:g}" if uncertain else ""),
        code="MM892",
        hint="evaluate more questions: these do not show whether the engine is worse than required"
        if uncertain
        else "`--questions wrong` lists the wrong answers",
    )
