"""``mmbuild run``: run a built engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.output import print_note

if TYPE_CHECKING:
    from mmbuild.backends.base import Answer, Answers, Pair
    from mmbuild.base.errors import MmbuildError


@commands.command("run")
@build_arguments("build")
@click.option("--image", "images", multiple=True, metavar="FILE", help="Image file; repeat for several.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt; repeat for several. Nougat takes none.")
@click.option("--together", is_flag=True, help="Pass all images to one prompt (VILA).")
@options.max_new_tokens_option("Maximum tokens per answer (default and limit: max_output_len).")
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="Sampling temperature; 0 is greedy."
)
@click.option(
    "--top-k",
    type=int,
    default=0,
    show_default=True,
    help="Sample from the k most likely tokens; 0 means all.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Sample from the most likely tokens with total probability p.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for sampling.")
@click.option(
    "--num-beams", type=int, default=1, show_default=True, help="Number of beams, up to max_beam_width."
)
@click.option(
    "--length-penalty",
    type=float,
    show_default="the model's, else 1.0",
    help="Length penalty of beam search; larger values favour longer answers.",
)
@click.option(
    "--ignore-generation-config",
    is_flag=True,
    help="Ignore the model's generation settings, except its end tokens.",
)
@click.option("--stream", is_flag=True, help="Print the answer as it is generated (one prompt only).")
@click.option("--profile", is_flag=True, help="Print times, tokens per second and peak memory to stderr.")
@options.json_option("one object that includes the profile")
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
    """Run a built engine on images and prompts.

    An engine is code: loading one executes it. Its files are therefore first compared with BUILD/manifest.json, and
    a modified engine is refused; --no-check skips this. Only run engines from people you trust.

    BUILD is the directory that `mmbuild apply` prints, or its name. Answers go to stdout, one line each. A single
    prompt is used with every image, a single image with every prompt; otherwise images and prompts are paired. Up to
    max_batch_size of them are answered at once. Prompts are put into the model's chat template unless they contain
    the image token. Nougat reads pages and takes no prompt.

    Decoding is greedy unless --temperature or --num-beams is given. It follows the model's generation_config.json
    (docs/generation-settings.md), except for sampling and the number of beams.

    Engines of backend tensorrt-llm run in TensorRT-LLM's own runner, once per pair; without --image and --prompt the
    runner uses its own question and picture.

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
    from mmbuild.models.image_files import require_usable
    from mmbuild.models.validation.prompts import require_unicode

    require_unicode(prompts)
    # Report a wrong path before spending seconds on imports.
    description = options.checked_engine(build, check=check)
    runner = backend(description.backend).open(build, description, print_status)
    options.refuse_others(context, runner.run_options, "run")
    for remark in runner.remarks(ignore_generation_config=ignore_generation_config):
        print_note(remark)
    has_input = bool(images or prompts)
    pairs = (
        pair(images, prompts, together=together) if has_input or not runner.has_own_question else [((), None)]
    )
    _check_stream(stream, pairs, profile or as_json or num_beams > 1)
    require_usable(Path(image) for image in images)
    request = RunRequest(
        pairs,
        max_new_tokens,
        sampling={"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed},
        beams={"width": num_beams, "length_penalty": length_penalty},
        ignore_generation_config=ignore_generation_config,
        show="stream" if stream else "json" if as_json else "profile" if profile else "text",
    )
    runner.run(request, "mmbuild.cli.run:show")
    if prompts and not images and not runner.has_own_question:
        print_note("note: there is no --image: the model saw no picture")


def show(answers: Answers, form: str) -> None:
    """Print the answers of an engine; ``form`` is ``text``, ``stream``, ``profile`` or ``json``."""
    for note in answers.notes:
        print_note(f"note: {note}")
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


def _check_stream(stream: bool, pairs: Sequence[object], whole: bool) -> None:
    """Refuse ``--stream`` where answers cannot be streamed.

    Raises:
        UsageError: There are several prompts, or the output is only known at the end.
    """
    if stream and (len(pairs) != 1 or whole):
        from mmbuild.base.errors import UsageError

        raise UsageError(
            "--stream prints a single answer as it is generated",
            code="MM521",
            hint="give one prompt, without --profile, --json and --num-beams",
        )


def pair(images: Sequence[str], prompts: Sequence[str], *, together: bool = False) -> list[Pair]:
    """Pair images with prompts; with ``together`` all images go to one prompt.

    Raises:
        UsageError: There are no images and no prompts, different numbers of several images and several prompts, or
            several prompts with ``together``.
    """
    if together or not images:
        return [(tuple(images), prompt) for prompt in _checked_prompts(images, prompts, together=together)]
    if len(prompts) <= 1:
        return [((image,), prompts[0] if prompts else None) for image in images]
    if len(images) == 1:
        return [((images[0],), prompt) for prompt in prompts]
    if len(images) != len(prompts):
        raise _pairing_error(
            f"cannot pair {len(images)} images with {len(prompts)} prompts",
            "give one prompt for all images, one image for all prompts, or the same number of each",
        )
    return [((image,), prompt) for image, prompt in zip(images, prompts, strict=True)]


def _checked_prompts(
    images: Sequence[str], prompts: Sequence[str], *, together: bool
) -> Sequence[str | None]:
    if together and len(prompts) > 1:
        raise _pairing_error(
            f"--together passes all images to one prompt, but there are {len(prompts)} prompts",
            "give one prompt",
        )
    if not images and not prompts:
        raise _pairing_error(
            "nothing to run: there is neither --image nor --prompt",
            "give a question with --prompt, and images with --image",
        )
    return prompts or (None,)


def _pairing_error(message: str, hint: str) -> MmbuildError:
    from mmbuild.base.errors import UsageError

    return UsageError(message, code="MM518", hint=hint)
