"""``mmbuild run``: ask a built engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmbuild.engine import Generation, Profile


@click.command("run")
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--image", "images", multiple=True, metavar="FILE", help="A picture; several make a batch.")
@click.option("--prompt", "prompts", multiple=True, required=True, help="A question; several make a batch.")
@click.option("--max-new-tokens", type=int, help="Tokens per answer; default and limit: max_output_len.")
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option(
    "--top-k", type=int, default=0, show_default=True, help="Draw from the k likeliest; 0: from all."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest up to p.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option("--stream", is_flag=True, help="Print the answer as it comes (one prompt only).")
@click.option("--profile", is_flag=True, help="Times, tokens per second and peak memory, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, profile included.")
def command(
    build: Path,
    images: tuple[str, ...],
    prompts: tuple[str, ...],
    max_new_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stream: bool,
    profile: bool,
    as_json: bool,
) -> None:
    """Ask a built engine about pictures.

    BUILD is the directory that `mmbuild apply` names. Answers go to stdout, one line each. One prompt is asked
    about every image, one image serves every prompt, otherwise they go in pairs. A prompt is put into the
    model's chat form unless it names the image token itself.

    \b
    Example:
      mmbuild run build/llava-shapes-int4 --image a.png --prompt "how many shapes ?"
      mmbuild run build/llava-1.5-7b-int4 --image a.png --image b.png --prompt "What is this?" --profile
    """
    pairs = pair(images, prompts)
    check_stream(stream, pairs, profile or as_json)
    from mmbuild.engine import layout
    from mmbuild.ranks import launch

    description = layout.read(build)  # a wrong path is told before seconds of imports
    launch.spread(
        description.llm["tensor_parallel"],
        "mmbuild.cli.run:answer",
        {
            "build": str(build),
            "pairs": pairs,
            "max_new_tokens": max_new_tokens,
            "sampling": {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed},
            "show": "stream" if stream else "json" if as_json else "profile" if profile else "text",
        },
    )


def answer(
    build: str,
    pairs: Sequence[Sequence[str | None]],
    max_new_tokens: int | None,
    sampling: Mapping[str, Any],
    show: str,
) -> None:
    """Load the engine, ask it ``pairs`` (:func:`pair`) and print: the verb within one process, or one rank.

    Args:
        show: ``text``, ``stream``, ``profile`` or ``json``.
    """
    from mmbuild.engine import Engine, Sampling

    drawing = Sampling(**sampling)
    engine = Engine.load(build)
    requests = engine.encode(
        [[image] if image else [] for image, _ in pairs], [text or "" for _, text in pairs]
    )
    stopping = engine.stopping(max_new_tokens)
    if show == "stream":
        for piece in engine.stream_text(requests[0], stopping, drawing):
            click.echo(piece, nl=False)
        click.echo()
        return
    generation = engine.run(requests, stopping, drawing)
    if show == "json":
        click.echo(json.dumps(_plain(pairs, generation), indent=2))
        return
    for one in generation.answers:
        click.echo(one.text)
    if show == "profile":
        click.echo(render_profile(generation.profile), err=True)


def check_stream(stream: bool, pairs: Sequence[object], whole: bool) -> None:
    """Refuse ``--stream`` where answers cannot come in pieces.

    Raises:
        UsageError: Several prompts, or output that is only known at the end.
    """
    if stream and (len(pairs) != 1 or whole):
        from mmbuild.errors import UsageError

        raise UsageError(
            "--stream prints one answer as it comes",
            code="MM521",
            hint="Give one prompt, without --profile and --json",
        )


def pair(images: Sequence[str], prompts: Sequence[str]) -> list[tuple[str | None, str]]:
    """Who is asked about what.

    Raises:
        UsageError: Several images and several prompts, of different numbers.
    """
    if not images:
        return [(None, prompt) for prompt in prompts]
    if len(prompts) == 1:
        return [(image, prompts[0]) for image in images]
    if len(images) == 1:
        return [(images[0], prompt) for prompt in prompts]
    if len(images) != len(prompts):
        from mmbuild.errors import UsageError

        raise UsageError(
            f"{len(images)} images and {len(prompts)} prompts do not make pairs",
            code="MM518",
            hint="Give one prompt for all images, one image for all prompts, or as many of each",
        )
    return list(zip(images, prompts, strict=True))


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


def _plain(pairs: Sequence[Sequence[str | None]], generation: Generation) -> dict[str, Any]:
    profile = generation.profile
    names = ("visual_seconds", "prefill_seconds", "decode_seconds", "prompt_tokens", "new_tokens", "steps")
    return {
        "answers": [
            {"image": image, "prompt": prompt, "text": one.text, "token_ids": list(one.token_ids)}
            for (image, prompt), one in zip(pairs, generation.answers, strict=True)
        ],
        "profile": {name: getattr(profile, name) for name in names}
        | {"tokens_per_second": profile.tokens_per_second, "peak_bytes": profile.peak_bytes},
    }
