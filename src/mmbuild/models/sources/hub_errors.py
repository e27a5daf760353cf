"""Errors of ``huggingface_hub`` and of its connections as errors of a source, with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmbuild.models.errors import SourceError
from mmbuild.models.sources import hub_index
from mmbuild.models.sources.hub_download import LOCAL_FAULTS

_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


class UnreachableError(SourceError):
    """No connection to the hub (MM422)."""


@contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
    """Convert the client's errors within the block.

    Args:
        repo: The repository that the block asks for.
        revision: Its branch, tag or commit, for messages.

    Raises:
        SourceError: MM420, there is no such model, revision or file; MM421, access is denied; MM422, the hub is
            unreachable or fails; MM424, a file cannot be written.
    """
    kind = "data set" if hub_index.repo_kind(repo)[1] == "dataset" else "model"
    import httpx
    from huggingface_hub import errors

    where = f"`{repo}`" + (f" at `{revision}`" if revision else "")
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{where} is gated", code="MM421", hint="ask for access on its page, then set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{where}: no such revision on the hub", code="MM420", hint=f"check {revision_key(repo)}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{where}: no such {kind} on the hub, or it is private",
            code="MM420",
            hint=f"check the name; for a private {kind} set HF_TOKEN",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refused(where, error.__cause__) from error
        raise _unreachable(where, error) from error
    except errors.EntryNotFoundError as error:
        raise SourceError(
            f"{where} has no such file: {str(error).splitlines()[0]}", code="MM420", hint=f"check the {kind}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(where, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceError(
            f"{where}: not complete in the hub cache, and --offline or HF_HUB_OFFLINE forbids asking the hub",
            code="MM422",
            hint="run once without it, or set HF_HOME to a cache that contains the model",
        ) from error
    except httpx.ConnectError as error:  # the message has its reason
        raise _unreachable(where, error) from None
    except (httpx.TransportError, OSError) as error:
        raise _unreachable(where, error) from error


def revision_key(repo: str) -> str:
    """Where a recipe has the revision; a model may be the second source, ``model.vision``."""
    kind = hub_index.repo_kind(repo)[1]
    return "calibration.revision" if kind == "dataset" else "`revision`, next to the model's `source`"


def _refused(where: str, error: Any) -> SourceError:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return SourceError(
            f"{where}: the hub denied access (HTTP {status})",
            code="MM421",
            hint="set HF_TOKEN to a valid token",
        )
    return SourceError(
        f"{where}: the hub answered HTTP {status}",
        code="MM422",
        hint="try again later; finished files are kept",
    )


def _unreachable(where: str, error: Exception) -> SourceError:
    import httpx
    from huggingface_hub import constants

    if isinstance(error.__cause__, httpx.TransportError):
        error = error.__cause__
    if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
        file = f" `{error.filename}`" if error.filename else ""
        return SourceError(
            f"{where}: writing{file} failed: {error.strerror}",
            code="MM424",
            hint="free space, check permissions, or set HF_HOME to another directory; partial downloads are kept",
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, httpx.ConnectError):
        host = constants.ENDPOINT.partition("://")[2].rstrip("/")
        return UnreachableError(
            f"{where}: cannot reach {host} ({_ERRNO.sub('', reason)})",
            code="MM422",
            hint="check the network and HF_ENDPOINT, then try again; "
            "`--offline` plans without the hub; or name a local directory",
        )
    return SourceError(
        f"{where}: the hub is unreachable or the connection failed: {reason}",
        code="MM422",
        hint="check the network and HF_ENDPOINT, then try again; partial downloads are kept",
    )
