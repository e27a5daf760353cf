"""``mmbuild chat``: talk to an engine in a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmbuild.cli import commands, options
from mmbuild.cli.builds import build_arguments
from mmbuild.cli.output import print_note

if TYPE_CHECKING:
    from mmbuild.serving.conversation import Conversation

_HELP = """\
/image FILE   show a picture with the next message
/reset        begin a new conversation, without the pictures
/save FILE    write the conversation as JSON
/quit         end (also Ctrl-D); Ctrl-C ends an answer"""


@commands.command("chat")
@build_arguments("build")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="Picture for the first message."
)
@options.max_new_tokens_option("Maximum tokens per answer.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Sample from the likeliest tokens.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for sampling.")
@options.check_option
def command(
    build: Path,
    images: tuple[Path, ...],
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    check: bool,
) -> None:
    """Talk to a built engine about pictures.

    The engine reads the whole conversation, as long as it fits into max_input_len; then the oldest messages are
    forgotten. Models without a chat template (BLIP-2, Nougat) read each message alone.

    \b
    Example:
      mmbuild chat build/llava-shapes-int4 --image picture.png
    """
    from mmbuild.backends.torch.request_limits import require_new_tokens
    from mmbuild.base.optional_packages import require
    from mmbuild.models.image_files import require_usable
    from mmbuild.serving.loadable import require_loadable

    description = options.checked_engine(build, check=check)
    require_loadable(build, description)
    if max_new_tokens is not None:
        require_new_tokens(max_new_tokens, description.llm["max_output_len"])
    require_usable(images)
    require("torch", "transformers", needed_by="running an engine")
    from mmbuild.backends.torch.distributed import launch

    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
    arguments = {
        "build": str(build),
        "images": list(map(str, images)),
        "count": max_new_tokens,
        "sampling": sampling,
    }
    print_note("loading ...")
    ranks = description.llm["tensor_parallel"]
    launch.run_on_ranks(ranks, "mmbuild.cli.chat:talk", arguments, interrupts=(signal.SIGINT,))


def talk(build: str, images: Sequence[str], count: int | None, sampling: Mapping[str, Any]) -> None:
    """Load the engine and talk: what each rank does, of which rank 0 alone gets past loading.

    Args:
        build: The engine directory.
        images: Pictures for the first message.
        count: Maximum tokens of an answer; None: the engine's.
        sampling: Fields of :class:`~mmbuild.backends.torch.Sampling`.
    """
    from mmbuild.base.status_line import working

    with working("loading the engine"):  # importing torch takes seconds too
        from mmbuild.backends.torch import Engine, Sampling

        chosen = Sampling(**sampling)
        engine = Engine.load(build, check=False)  # it has just been checked
    click.echo(_HELP, err=True)
    _Terminal(engine, engine.stopping(count), chosen, list(map(Path, images))).run()


class _Terminal:
    """Reads lines and prints answers."""

    def __init__(self, engine: Any, stopping: Any, sampling: Any, pictures: list[Path]) -> None:
        from mmbuild.serving.conversation import Conversation

        self._engine, self._stopping, self._sampling = engine, stopping, sampling
        self._pictures = pictures
        self._talk: Conversation = Conversation()

    def run(self) -> None:
        """Until the end of the input."""
        for line in _lines():
            word, _, rest = line.partition(" ")
            if word == "/quit":
                return
            if word.startswith("/"):
                self._command(word, rest.strip())
            elif line or self._pictures:
                self._answer(line)

    def _command(self, word: str, rest: str) -> None:
        if word == "/reset":
            had_pictures = self._pictures or any(message.pictures for message in self._talk.messages)
            self._talk, self._pictures = type(self._talk)(), []
            if had_pictures:
                _report("the new conversation has no picture; show one with `/image FILE`")
        elif word == "/image" and rest:
            self._picture(Path(rest).expanduser())
        elif word == "/save" and rest:
            try:
                self._talk.save(Path(rest).expanduser())
            except OSError as error:
                _report(f"cannot write `{rest}`: {error.strerror or error}")
        else:
            if word in ("/image", "/save"):
                _report(f"`{word}` needs a file")
            elif word != "/help":
                _report(f"no command `{word}`")
            click.echo(_HELP, err=True)

    def _picture(self, path: Path) -> None:
        from mmbuild.base.errors import MmbuildError
        from mmbuild.models.images import open_picture

        try:
            open_picture(path)
        except MmbuildError as error:
            _report(f"{error.message} [{error.code}]")
        else:
            self._pictures.append(path)

    def _answer(self, text: str) -> None:
        from mmbuild.base.errors import MmbuildError

        talk, forgotten = self._talk, self._talk.forgotten
        talk.say("user", text, self._pictures)
        try:
            request = talk.request(self._engine)
            said = self._say(request)
        except MmbuildError as error:
            talk.take_back()
            talk.forgotten = min(forgotten, len(talk.messages))
            _report(f"{error.message} [{error.code}]")
            return
        self._pictures = []
        talk.say("assistant", said)
        if talk.forgotten > forgotten and self._engine.processor.encode_chat is not None:
            _report(f"{talk.forgotten} messages no longer fit and are forgotten")

    def _say(self, request: Any) -> str:
        """Print an answer as it is made."""
        said = ""
        with _one_interrupt() as interrupted:
            for piece in self._engine.stream_text(request, self._stopping, self._sampling):
                said += piece
                click.echo(piece, nl=False)
                sys.stdout.flush()
                if interrupted():
                    click.echo(" ...", nl=False)
                    break
        click.echo()
        return said


@contextmanager
def _one_interrupt() -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C is only noted: a step that is broken off would leave the ranks of an engine apart.

    Yields whether there was one.
    """
    noted = False

    def note(*_: object) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """Lines of the input, with a prompt on a terminal."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 (editing and history)
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D ends)", err=True)


def _report(message: str) -> None:
    click.echo(f"note: {message}", err=True)
