"""``mmbuild config``: where toolchains and TensorRT are on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmbuild.cli import commands
from mmbuild.cli import options as cli_options

_PATH = click.Path(path_type=Path)


@commands.group("config")
def command() -> None:
    """Configure where toolchains and TensorRT are on this host.

    The configuration is a per-user YAML file that recipes never refer to. Setting an entry keeps all others but
    drops comments from the file.

    \b
    Example:
      mmbuild config set-toolchain 1.2 --python /opt/trtllm/bin/python --examples ~/TensorRT-LLM
      mmbuild config show
      mmbuild doctor
    """


@command.command("path")
def path() -> None:
    """Print the path of the configuration file.

    \b
    Example:
      mmbuild config path
    """
    from mmbuild.config.load import config_path

    click.echo(config_path())


@command.command("show")
@cli_options.json_option("the configuration, with defaults filled in and ~ expanded")
def show(*, as_json: bool) -> None:
    """Check and print the configuration.

    \b
    Example:
      mmbuild config show --json
    """
    from mmbuild.cli.output import print_note
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
        print_note(f"nothing is configured; `mmbuild config set-toolchain` creates `{where}`")


@command.command("set-toolchain")
@click.argument("version")
@click.option("--python", type=_PATH, metavar="PYTHON", help="Interpreter that has this version installed.")
@click.option(
    "--container",
    nargs=2,
    metavar="ENGINE IMAGE",
    help="docker or podman, and an image that has this version installed.",
)
@click.option("--option", "options", multiple=True, metavar="WORD", help="Extra option for docker or podman.")
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
    """Set where a TensorRT-LLM version runs: a Python on this host, or a container image.

    Replaces an earlier entry for this version. `mmbuild doctor` then checks whether it is complete.

    \b
    Example:
      mmbuild config set-toolchain 0.10.0 --python ~/venvs/trtllm/bin/python --examples ~/src/TensorRT-LLM
      mmbuild config set-toolchain 1.2 --container docker nvcr.io/nvidia/tensorrt-llm/release:1.2.1 \\
        --examples ~/src/TensorRT-LLM
    """
    entry: dict[str, Any] = {}
    if python is not None:
        entry["python"] = _path_text(python)
    if container is not None:
        engine, image = container
        entry["container"] = {"engine": engine, "image": image}
        if options:
            entry["container"]["options"] = list(options)
    elif options:
        raise click.UsageError("--option requires --container")
    entry["examples"] = _path_text(examples)
    _put(("toolchains", version), entry, variables)


@command.command("set-tensorrt")
@click.option(
    "--python", required=True, type=_PATH, metavar="PYTHON", help="Interpreter with tensorrt and numpy."
)
@click.option("--variable", "variables", multiple=True, metavar="NAME=VALUE", help="Environment variable.")
def set_tensorrt(*, python: Path, variables: tuple[str, ...]) -> None:
    """Set the Python that builds and runs TensorRT visual engines.

    \b
    Example:
      mmbuild config set-tensorrt --python ~/venvs/tensorrt/bin/python
    """
    _put(("tensorrt",), {"python": _path_text(python)}, variables)


@command.group("unset")
def unset() -> None:
    """Remove an entry.

    \b
    Example:
      mmbuild config unset toolchain 0.10.0
      mmbuild config unset tensorrt
    """


@unset.command("toolchain")
@click.argument("version")
def unset_toolchain(*, version: str) -> None:
    """Remove the entry of a TensorRT-LLM version.

    \b
    Example:
      mmbuild config unset toolchain 0.10.0
    """
    _drop(("toolchains", version))


@unset.command("tensorrt")
def unset_tensorrt() -> None:
    """Remove the entry for TensorRT.

    \b
    Example:
      mmbuild config unset tensorrt
    """
    _drop(("tensorrt",))


def _path_text(path: Path) -> str:
    """``path`` as written to the file: absolute, but with links kept, since a virtual environment's python is one."""
    return str(path if str(path).startswith("~") else path.absolute())


def _put(keys: tuple[str, ...], entry: dict[str, Any], variables: tuple[str, ...]) -> None:
    from mmbuild.cli.output import print_note, print_status
    from mmbuild.config import edit
    from mmbuild.config.load import config_path

    if variables:
        entry["variables"] = dict(_variable(word) for word in variables)
    where = config_path()
    edit.set_entry(where, keys, entry)
    for name in ("python", "examples"):
        if name in entry and not Path(entry[name]).expanduser().exists():
            print_status(f"warning: {name} `{entry[name]}` does not exist on this host")
    print_note(f"wrote `{where}`; `mmbuild doctor` checks whether it is complete")


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise click.UsageError(f"invalid --variable `{word}`: expected NAME=VALUE")
    return name, value


def _drop(keys: tuple[str, ...]) -> None:
    from mmbuild.cli.output import print_note
    from mmbuild.config import edit
    from mmbuild.config.load import config_path

    where = config_path()
    edit.remove_entry(where, keys)
    print_note(f"wrote `{where}`")
