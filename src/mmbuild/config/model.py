"""The format of the user's configuration: where toolchains run on this host.

It configures how this host executes recipes; no recipe depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(path: Path) -> Path:
    """Expand ``~`` and require an absolute path: a relative one would depend on the current directory."""
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"names a home directory that does not exist ({error})") from error
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or begin with `~/`")
    if "\0" in str(path):
        raise ValueError("is not a valid path: it contains a NUL character")
    return path


Place = Annotated[Path, AfterValidator(_absolute)]
Variables = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Annotated[str, Field(pattern=r"^[^\x00]*$")]
]


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Container(Section):
    """A container image with a toolchain in it."""

    engine: Literal["docker", "podman"] = Field(description="Program that runs containers")
    image: str = Field(
        pattern=r"^[A-Za-z0-9][^\s]*$",
        max_length=500,
        description="Image with its tag or digest, such as registry/name:tag",
    )
    options: tuple[str, ...] = Field(
        default=(), description="Additional options of `docker run` or `podman run`, before the image"
    )


class ToolchainEnvironment(Section):
    """Environment of a TensorRT-LLM version: a Python on this host, or a container image."""

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


class Interpreter(Section):
    """A Python on this host with packages that mmbuild's own does not have."""

    python: Place = Field(description="Interpreter, 3.10 or newer, with tensorrt and numpy")
    variables: Variables = Field(default={}, description="Environment variables set for it")


def _public_key(text: str) -> str:
    from mmbuild.base.public_keys import public_bytes

    public_bytes(text)
    return text


class SharedStoreConfig(Section):
    """A store shared by several machines: what is pulled from it and pushed to it."""

    remote: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://.+$",
        max_length=2000,
        description="fsspec URL: file:///srv/mmbuild, s3://bucket/path, https://host/path (read-only)",
    )
    pull: Literal["always", "never"] = Field(
        default="always", description="Whether to pull results of other machines"
    )
    push: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether to push results; `auto` means only if the variable CI is set",
    )
    timeout: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Timeout in seconds of a request, and of all lookups of a plan together",
    )
    transfers: int = Field(
        default=8, ge=1, le=64, description="Concurrent requests while files are transferred"
    )
    options: dict[str, Any] = Field(
        default={},
        description="Options of the fsspec file system; `${NAME}` in a text expands to a variable",
    )
    require_signatures: bool = Field(
        default=False, description="Use only results signed by one of `trusted_keys`"
    )
    trusted_keys: tuple[Annotated[str, AfterValidator(_public_key)], ...] = Field(
        default=(),
        description="Public keys, `ed25519:...` as `mmbuild cache keygen` prints them",
    )
    signing_key: Place | None = Field(
        default=None,
        description="Private key that signs pushed results; MMBUILD_SIGNING_KEY overrides it",
    )


class UserConfig(Section):
    """The whole file."""

    toolchains: dict[str, ToolchainEnvironment] = Field(
        default={}, description="Environment of each TensorRT-LLM version, by its name in recipes"
    )
    store: SharedStoreConfig | None = Field(default=None, description="Store shared by several machines")
    tensorrt: Interpreter | None = Field(
        default=None,
        description="Python that builds and runs TensorRT visual engines for the embedded engine",
    )
