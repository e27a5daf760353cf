"""``mmbuild run``: ask a built engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.backends.base import Answer, Answers, Pair
    from mmbuild.base.errors import MmbuildError


@click.command("run")
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--image", "images", multiple=True, metavar="FILE", help="A picture; several make a batch.")
@click.option("--prompt", "prompts", multiple=True, help="A question; several make a batch. None for Nougat.")
@click.option("--together", is_flag=True, help="All images belong to one prompt (VILA).")
@click.option("--max-new-tokens", type=int, help="Tokens per answer; default and limit: max_output_len.")
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option(
    "--top-k", type=int, default=0, show_default=True, help="Draw from the k likeliest; 0: from all."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest up to p.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option(
    "--num-beams", type=int, default=1, show_default=True, help="Search so many beams, up to max_beam_width."
)
@click.option(
    "--length-penalty",
    type=float,
    show_default="the model's, else 1.0",
    help="Larger favours longer answers (beams).",
)
@click.option(
    "--ignore-generation-config",
    is_flag=True,
    help="Ignore the model's generation settings; its end tokens still end answers.",
)
@click.option("--stream", is_flag=True, help="Print the answer as it comes (one prompt only).")
@click.option("--profile", is_flag=True, help="Times, tokens per second and peak memory, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, profile included.")
@options.check_option
@click.pass_context
def command(
    context: click.Context,
    build: Path,
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    together: bool,
    max_new_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    num_beams: int,
    length_penalty: float | None,
    ignore_generation_config: bool,
    stream: bool,
    profile: bool,
    as_json: bool,
    check: bool,
) -> None:
    """Ask a built engine about pictures.

    An engine is code: loading one executes it. So its files are first compared with BUILD/manifest.json, and an
    engine that is not as it was built is refused; --no-check loads it as it is. Run engines of people you trust.

    BUILD is the directory that `mmbuild apply` names. Answers go to stdout, one line each. One prompt is asked
    about every image, one image serves every prompt, otherwise they go in pairs. A prompt is put into the
    model's chat form unless it names the image token itself. Nougat reads pages and takes no prompt.

    Decoding is greedy unless --temperature or --num-beams says otherwise, and obeys the settings in the model's
    generation_config.json (docs/generation-settings.md), but for sampling and numbers of beams.

    An engine of backend tensorrt-llm is asked through TensorRT-LLM's own runner, once for each pair; without
    --image and --prompt the runner asks its own question about its own picture.

    \b
    Example:
      mmbuild run build/llava-shapes-int4 --image a.png --prompt "how many shapes ?"
      mmbuild run build/llava-1.5-7b-int4 --image a.png --image b.png --prompt "What is this?" --profile
      mmbuild run build/vila-shapes --together --image a.png --image b.png --prompt "which has more shapes ?"
      mmbuild run build/nougat-base --image page.png --num-beams 4
    """
    from mmbuild.backends.base import RunRequest
    from mmbuild.backends.table import backend
    from mmbuild.cli.output import print_status
    from mmbuild.models.prompts import require_unicode

    require_unicode(prompts)
    description = options.checked_engine(
        build, check=check
    )  # a wrong path is reported before seconds of imports
    runner = backend(description.backend).open(build, description, print_status)
    options.refuse_others(context, runner.run_options, "run")
    for remark in runner.remarks(ignore_generation_config=ignore_generation_config):
        click.echo(remark, err=True)
    asked = bool(images or prompts)
    pairs = pair(images, prompts, together=together) if asked or not runner.has_own_question else [((), None)]
    check_stream(stream, pairs, profile or as_json or num_beams > 1)
    request = RunRequest(
        pairs,
        max_new_tokens,
        sampling={"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed},
        beams={"width": num_beams, "length_penalty": length_penalty},
        ignore_generation_config=ignore_generation_config,
        show="stream" if stream else "json" if as_json else "profile" if profile else "text",
    )
    runner.run(request, "mmbuild.cli.run:show")


def show(answers: Answers, form: str) -> None:
    """Print what an engine said; ``form`` is ``text``, ``stream``, ``profile`` or ``json``."""
    for note in answers.notes:
        click.echo(f"note: {note}", err=True)
    if answers.pieces is not None:
        for piece in answers.pieces:
            click.echo(piece, nl=False)
        click.echo()
        return
    if form == "json":
        document = {"answers": [_as_json(item) for item in answers.answers], **answers.facts}
        click.echo(json.dumps(document, indent=2))
        return
    for item in answers.answers:
        for text in item.texts:
            click.echo(text)
    if form == "profile":
        for line in answers.profile:
            click.echo(line, err=True)


def _as_json(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "images": list(answer.images),
        "prompt": answer.prompt,
        "text": "\n".join(answer.texts),
    }
    return shown if answer.token_ids is None else {**shown, "token_ids": list(answer.token_ids)}


def check_stream(stream: bool, pairs: Sequence[object], whole: bool) -> None:
    """Refuse ``--stream`` where answers cannot come in pieces.

    Raises:
        UsageError: Several prompts, or output that is only known at the end.
    """
    if stream and (len(pairs) != 1 or whole):
        from mmbuild.base.errors import UsageError

        raise UsageError(
            "--stream prints one answer as it comes",
            code="MM521",
            hint="Give one prompt, without --profile and --json",
        )


def pair(images: Sequence[str], prompts: Sequence[str], *, together: bool = False) -> list[Pair]:
    """Who is asked about what.

    Raises:
        UsageError: Nothing is asked; several images and several prompts, of different numbers; or several prompts
            about images that belong together.
    """
    if together or not images:
        return [(tuple(images), prompt) for prompt in _asked(images, prompts, together=together)]
    if len(prompts) <= 1:
        return [((image,), prompts[0] if prompts else None) for image in images]
    if len(images) == 1:
        return [((images[0],), prompt) for prompt in prompts]
    if len(images) != len(prompts):
        raise _no_pairs(
            f"{len(images)} images and {len(prompts)} prompts do not make pairs",
            "Give one prompt for all images, one image for all prompts, or as many of each",
        )
    return [((image,), prompt) for image, prompt in zip(images, prompts, strict=True)]


def _asked(images: Sequence[str], prompts: Sequence[str], *, together: bool) -> Sequence[str | None]:
    if together and len(prompts) > 1:
        raise _no_pairs(
            f"--together gives one prompt all images, and there are {len(prompts)} prompts", "Give one prompt"
        )
    if not images and not prompts:
        raise _no_pairs(
            "nothing is asked: there is neither --image nor --prompt",
            "Give a question with --prompt, and pictures with --image",
        )
    return prompts or (None,)


def _no_pairs(message: str, hint: str) -> MmbuildError:
    from mmbuild.base.errors import UsageError

    return UsageError(message, code="MM518", hint=hint)
