"""``mmbuild config``: where toolchains and TensorRT are on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.group("config")
def command() -> None:
    """Say where toolchains and TensorRT are on this host.

    The configuration is a YAML file of your own; recipes never name it. Setting an entry keeps all others, and
    loses comments that were written into the file by hand.

    \b
    Example:
      mmbuild config set-toolchain 1.2 --python /opt/trtllm/bin/python --examples ~/TensorRT-LLM
      mmbuild config show
      mmbuild doctor
    """


@command.command("path")
def path() -> None:
    """Print where the configuration is looked for.

    \b
    Example:
      mmbuild config path
    """
    from mmbuild.config.load import config_path

    click.echo(config_path())


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with defaults filled in and ~ expanded.")
def show(*, as_json: bool) -> None:
    """Print the configuration, judged.

    \b
    Example:
      mmbuild config show --json
    """
    from mmbuild.cli.output import print_status
    from mmbuild.config import edit
    from mmbuild.config.load import config_path, load

    where = config_path()
    if as_json:
        click.echo(load(where).model_dump_json(indent=2))
        return
    text = edit.display(where)
    if text:
        click.echo(text, nl=False)
    else:
        print_status(f"nothing is configured; `{where}` is made by `mmbuild config set-toolchain`")


@command.command("set-toolchain")
@click.argument("version")
@click.option("--python", type=_PATH, metavar="PYTHON", help="Interpreter that has this version installed.")
@click.option(
    "--container",
    nargs=2,
    metavar="ENGINE IMAGE",
    help="docker or podman, and an image that has this version installed.",
)
@click.option(
    "--option", "options", multiple=True, metavar="WORD", help="Further option for docker or podman."
)
@click.option(
    "--examples",
    required=True,
    type=_PATH,
    metavar="DIR",
    help="Checkout of TensorRT-LLM on this host, at the version's tag.",
)
@click.option("--variable", "variables", multiple=True, metavar="NAME=VALUE", help="Environment variable.")
def set_toolchain(
    *,
    version: str,
    python: Path | None,
    container: tuple[str, str] | None,
    options: tuple[str, ...],
    examples: Path,
    variables: tuple[str, ...],
) -> None:
    """Say where a TensorRT-LLM version runs: a Python of this host, or a container image.

    What was said about this version before is replaced. `mmbuild doctor` then says whether it is complete.

    \b
    Example:
      mmbuild config set-toolchain 0.10.0 --python ~/venvs/trtllm/bin/python --examples ~/src/TensorRT-LLM
      mmbuild config set-toolchain 1.2 --container docker nvcr.io/nvidia/tensorrt-llm/release:1.2.1 \\
        --examples ~/src/TensorRT-LLM
    """
    entry: dict[str, Any] = {}
    if python is not None:
        entry["python"] = _place(python)
    if container is not None:
        engine, image = container
        entry["container"] = {"engine": engine, "image": image}
        if options:
            entry["container"]["options"] = list(options)
    elif options:
        raise click.UsageError("--option is for --container")
    entry["examples"] = _place(examples)
    _put(("toolchains", version), entry, variables)


@command.command("set-tensorrt")
@click.option(
    "--python", required=True, type=_PATH, metavar="PYTHON", help="Interpreter with tensorrt and numpy."
)
@click.option("--variable", "variables", multiple=True, metavar="NAME=VALUE", help="Environment variable.")
def set_tensorrt(*, python: Path, variables: tuple[str, ...]) -> None:
    """Say which Python builds and runs TensorRT visual engines.

    \b
    Example:
      mmbuild config set-tensorrt --python ~/venvs/tensorrt/bin/python
    """
    _put(("tensorrt",), {"python": _place(python)}, variables)


@command.group("unset")
def unset() -> None:
    """Forget an entry.

    \b
    Example:
      mmbuild config unset toolchain 0.10.0
      mmbuild config unset tensorrt
    """


@unset.command("toolchain")
@click.argument("version")
def unset_toolchain(*, version: str) -> None:
    """Forget where a TensorRT-LLM version runs.

    \b
    Example:
      mmbuild config unset toolchain 0.10.0
    """
    _drop(("toolchains", version))


@unset.command("tensorrt")
def unset_tensorrt() -> None:
    """Forget which Python has TensorRT.

    \b
    Example:
      mmbuild config unset tensorrt
    """
    _drop(("tensorrt",))


def _place(path: Path) -> str:
    """As it is written into the file: absolute, since it is read from anywhere. A link stays a link: a virtual
    environment's python is one."""
    return str(path if str(path).startswith("~") else path.absolute())


def _put(keys: tuple[str, ...], entry: dict[str, Any], variables: tuple[str, ...]) -> None:
    from mmbuild.cli.output import print_status
    from mmbuild.config import edit
    from mmbuild.config.load import config_path

    if variables:
        entry["variables"] = dict(_variable(word) for word in variables)
    where = config_path()
    edit.set_entry(where, keys, entry)
    print_status(f"wrote `{where}`; `mmbuild doctor` says whether it is complete")


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise click.UsageError(f"--variable takes NAME=VALUE, not `{word}`")
    return name, value


def _drop(keys: tuple[str, ...]) -> None:
    from mmbuild.cli.output import print_status
    from mmbuild.config import edit
    from mmbuild.config.load import config_path

    where = config_path()
    edit.remove_entry(where, keys)
    print_status(f"wrote `{where}`")
