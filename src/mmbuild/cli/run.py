"""``mmbuild run``: ask a built engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import options

if TYPE_CHECKING:
    from mmbuild.backends.engine_dir.description import Description
    from mmbuild.backends.torch import Generation, Profile
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
    from mmbuild.models.generation_settings import not_applied_text, not_passed_text
    from mmbuild.models.prompts import require_unicode

    require_unicode(prompts)
    description = options.checked_engine(
        build, check=check
    )  # a wrong path is reported before seconds of imports
    if description.backend == "tensorrt-llm":
        from mmbuild.cli import ask

        ask.refuse_others(options.given_options(context), ask.RUN)
        warn_of_settings(description, not_passed_text, "MM725")
        show = "json" if as_json else "profile" if profile else "text"
        pairs = pair(images, prompts, together=together) if images or prompts else [((), None)]
        ask.answer(build, description, pairs, max_new_tokens, show)
        return
    if not ignore_generation_config:
        warn_of_settings(description, not_applied_text, "MM720")
    pairs = pair(images, prompts, together=together)
    check_stream(stream, pairs, profile or as_json or num_beams > 1)
    remark = emulation_note(description.llm, description.target)
    if remark:
        click.echo(f"note: {remark}", err=True)
    from mmbuild.backends.torch.distributed import launch

    launch.run_on_ranks(
        description.llm["tensor_parallel"],
        "mmbuild.cli.run:answer",
        {
            "build": str(build),
            "pairs": pairs,
            "max_new_tokens": max_new_tokens,
            "sampling": {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed},
            "beams": {"width": num_beams, "length_penalty": length_penalty},
            "ignore_generation_config": ignore_generation_config,
            "show": "stream" if stream else "json" if as_json else "profile" if profile else "text",
        },
    )


# One prompt, perhaps none, and its images.
Pair = tuple[tuple[str, ...], str | None]


def answer(
    build: str,
    pairs: Sequence[tuple[Sequence[str], str | None]],
    max_new_tokens: int | None,
    sampling: Mapping[str, Any],
    beams: Mapping[str, Any],
    show: str,
    ignore_generation_config: bool = False,
) -> None:
    """Load the engine, ask it ``pairs`` (:func:`pair`) and print: the verb within one process, or one rank.

    Args:
        show: ``text``, ``stream``, ``profile`` or ``json``.
        ignore_generation_config: As for :meth:`Engine.stopping`.
    """
    from mmbuild.backends.torch import Beams, Engine, Sampling

    drawing, searching = Sampling(**sampling), Beams(**beams)
    check_choice(drawing.temperature > 0, searching.width > 1)
    engine = Engine.load(build, check=False)  # the verb did, before ranks were started
    requests = engine.encode([list(images) for images, _ in pairs], [prompt for _, prompt in pairs])
    for conversion in dict.fromkeys(how for request in requests for how in request.conversions):
        click.echo(f"note: {conversion}", err=True)
    stopping = engine.stopping(max_new_tokens, ignore_generation_config=ignore_generation_config)
    if show == "stream":
        for piece in engine.stream_text(requests[0], stopping, drawing):
            click.echo(piece, nl=False)
        click.echo()
        return
    generation = engine.run(requests, stopping, drawing, searching)
    if show == "json":
        click.echo(json.dumps(_plain(pairs, generation), indent=2))
        return
    for one in generation.answers:
        click.echo(one.text)
    if show == "profile":
        click.echo(render_profile(generation.profile), err=True)


def warn_of_settings(description: Description, text: Callable[[str, Any], str], code: str) -> None:
    """Warn of the model's generation settings that answers do not follow; ``text`` words a field and its value."""
    for name, value in description.settings_not_applied.items():
        click.echo(f"warning: the model sets {text(name, value)} [{code}]", err=True)


def emulation_note(llm: Mapping[str, Any], target: Mapping[str, Any]) -> str | None:
    """What an engine for ``target`` does not do as its quantization says; None where it does all of it."""
    if llm["quant_algo"] == "FP8" and target["device"] == "cpu":
        return "fp8 on a CPU is emulated: weights are rounded to float8, activations are not"
    return None


def check_choice(drawn: bool, searched: bool) -> None:
    """Refuse to draw tokens and to search beams at once.

    Raises:
        UsageError: Both are asked for.
    """
    if drawn and searched:
        from mmbuild.base.errors import UsageError

        raise UsageError(
            "--temperature draws tokens, and --num-beams searches the likeliest sequence",
            code="MM520",
            hint="Give one of them",
        )


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


def render_profile(profile: Profile) -> str:
    """A profile as lines of a terminal."""
    per_step = profile.decode_seconds / profile.steps * 1e3 if profile.steps else 0.0
    return "\n".join(
        (
            f"visual       {profile.visual_seconds * 1e3:9.2f} ms",
            f"prefill      {profile.prefill_seconds * 1e3:9.2f} ms for {profile.prompt_tokens} tokens",
            f"per token    {per_step:9.2f} ms over {profile.steps} steps",
            f"throughput   {profile.tokens_per_second:9.1f} tokens/s, prefill included",
            f"peak memory  {profile.peak_bytes / (1 << 20):9.0f} MiB",
        )
    )


def _plain(pairs: Sequence[tuple[Sequence[str], str | None]], generation: Generation) -> dict[str, Any]:
    profile = generation.profile
    names = ("visual_seconds", "prefill_seconds", "decode_seconds", "prompt_tokens", "new_tokens", "steps")
    return {
        "answers": [
            {"images": list(images), "prompt": prompt, "text": one.text, "token_ids": list(one.token_ids)}
            for (images, prompt), one in zip(pairs, generation.answers, strict=True)
        ],
        "profile": {name: getattr(profile, name) for name in names}
        | {"tokens_per_second": profile.tokens_per_second, "peak_bytes": profile.peak_bytes},
    }
