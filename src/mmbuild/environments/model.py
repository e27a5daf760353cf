"""The form of the user's configuration: where toolchains run on this host.

It says how this host does what recipes ask for, and no recipe depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(path: Path) -> Path:
    """``path`` with ``~`` expanded. A relative one would mean another place in every working directory."""
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"names a home directory that does not exist ({error})") from error
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or begin with `~/`")
    if "\0" in str(path):
        raise ValueError("is not a usable path: it holds a NUL character")
    return path


Place = Annotated[Path, AfterValidator(_absolute)]
Variables = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Annotated[str, Field(pattern=r"^[^\x00]*$")]
]


class Part(BaseModel):
    """Base of all parts: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Container(Part):
    """A container image with a toolchain in it."""

    engine: Literal["docker", "podman"] = Field(description="Program that runs containers")
    image: str = Field(
        pattern=r"^[A-Za-z0-9][^\s]*$",
        max_length=500,
        description="Image with its tag or digest, such as registry/name:tag",
    )
    options: tuple[str, ...] = Field(
        default=(), description="Further options of `docker run` or `podman run`, before the image"
    )


class ToolchainEnvironment(Part):
    """Where one TensorRT-LLM version runs: a Python of this host, or a container image."""

    python: Place | None = Field(default=None, description="Interpreter with the toolchain installed")
    container: Container | None = Field(default=None, description="Image with the toolchain installed")
    examples: Place = Field(
        description="Checkout of TensorRT-LLM on this host, at the version's own tag; "
        "a container sees it read-only at the same path"
    )
    variables: Variables = Field(default={}, description="Environment variables set for every command")

    @model_validator(mode="after")
    def _one_way(self) -> ToolchainEnvironment:
        if (self.python is None) == (self.container is None):
            raise ValueError("needs one of `python` and `container`, and not both")
        return self


class Interpreter(Part):
    """A Python of this host that has what mmbuild's own has not."""

    python: Place = Field(description="Interpreter, 3.10 or newer, with tensorrt and numpy")
    variables: Variables = Field(default={}, description="Environment variables set for it")


class UserConfig(Part):
    """The whole file."""

    toolchains: dict[str, ToolchainEnvironment] = Field(
        default={}, description="TensorRT-LLM version, as recipes name it, to where it runs"
    )
    tensorrt: Interpreter | None = Field(
        default=None,
        description="Python that builds and runs TensorRT visual engines for the embedded engine",
    )
