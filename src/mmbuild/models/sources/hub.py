"""The Hugging Face hub, through ``huggingface_hub``.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and the hub's cache work as everywhere else: a
download that broke off goes on where it stopped, and files that are there already are not fetched again. Repositories
are named ``owner/name``, data sets ``datasets/owner/name``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmbuild.base import pins
from mmbuild.base.files import FileRefusedError, read_file, read_object
from mmbuild.base.limits import MODEL_JSON
from mmbuild.base.progress import Progress
from mmbuild.models.errors import SourceError
from mmbuild.models.files import adapters
from mmbuild.models.sources import hf_layout, hub_index
from mmbuild.models.sources.hub_download import LOCAL_FAULTS, HubFileRequest, fetch

# The largest file that is fetched to look at it: a tokenizer of several hundred thousand tokens.
_SMALL_BYTES = 20_000_000
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_config(repo: str, revision: str | None) -> Mapping[str, Any]:
    """``config.json`` of a hub model.

    Raises:
        SourceError: The hub cannot be asked, the model or file is not there or not allowed, or is not JSON.
        ModelFilesError: MM734, the repository holds an adapter and no model.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        with _explained(repo, revision):
            path = hf_hub_download(repo, "config.json", revision=pins.commit(repo, revision) or revision)
    except SourceError as error:
        if isinstance(error.__cause__, errors.EntryNotFoundError):
            with suppress(SourceError):
                fetch_small_files(repo, revision)
        raise
    try:
        return read_object(path, MODEL_JSON)
    except FileRefusedError as error:
        raise SourceError(
            f"config.json of `{repo}` {error.problem}", code="MM411", hint="Check the model on the hub"
        ) from None


def fetch_small_files(repo: str, revision: str | None, directories: Sequence[str] = ()) -> Path:
    """A directory in the hub's cache that holds the small files of a model; larger ones are left out.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; None is ``main``.
        directories: Directories below the model's own that hold files of it.

    Raises:
        SourceError: The hub cannot be asked, or refuses.
        ModelFilesError: MM734, the repository holds an adapter and no weights.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # seconds at most, in the middle of what a verb prints
    commit = resolve_revision(repo, revision)
    with _explained(repo, commit):
        files = hub_index.query(repo, commit)
        required = [name for name in hf_layout.required_files(files, directories) if hf_layout.is_small(name)]
        required += [adapters.CONFIG] if adapters.CONFIG in files else []
        for name in required:
            if files[name].size <= _SMALL_BYTES:
                hf_hub_download(repo, name, revision=commit)
    place = hub_index.repo_folder(repo) / "snapshots" / commit
    adapters.refuse_adapter_only(f"hf://{repo}", set(files), place)
    return place


def resolve_revision(repo: str, revision: str | None, *, offline: bool = False) -> str:
    """The commit that a branch or tag stands for, 40 hexadecimal digits.

    What a lock in force says goes first (:mod:`mmbuild.base.pins`). The hub's answer is remembered in its cache,
    where ``huggingface_hub`` keeps it too; without a network, or with ``offline``, that is the answer.

    Raises:
        SourceError: MM420, there is no such model or revision; MM421, it is not allowed; MM422, the hub cannot be
            asked and was never asked before.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if (settled := pins.commit(repo, revision)) is not None:
        return settled
    name = revision or "main"
    remembered = _reference(repo, name)
    from huggingface_hub import constants

    if not (offline or constants.HF_HUB_OFFLINE):
        from huggingface_hub import HfApi

        try:
            with _explained(repo, revision):
                repo_id, kind = hub_index.repo_kind(repo)
                answer = HfApi().repo_info(repo_id, revision=name, repo_type=kind)
            commit = _stated(repo, answer.sha)
        except SourceError as error:
            if error.code != "MM422" or not remembered.is_file():
                raise
        else:
            with suppress(OSError):  # a cache that nobody may write into is still a cache
                remembered.parent.mkdir(parents=True, exist_ok=True)
                remembered.write_text(commit)
            return commit
    if not remembered.is_file():
        raise SourceError(
            f"the commit of `{repo}` at `{name}` is not known offline",
            code="MM422",
            hint=f"Go online once, or write the commit into {_revision_key(repo)}",
        )
    known = _remembered(remembered)
    if known is None:
        raise SourceError(
            f"the hub's cache holds no commit for `{repo}` at `{name}` in `{remembered}`",
            code="MM422",
            hint=f"Remove the file and go online once, or write the commit into {_revision_key(repo)}",
        )
    return known


def _remembered(file: Path) -> str | None:
    """The commit that a reference of the cache names; None where it names none."""
    try:
        commit = read_file(file, 1_000).decode("ascii", "replace").strip()
    except (OSError, FileRefusedError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _stated(repo: str, commit: object) -> str:
    if isinstance(commit, str) and _COMMIT.fullmatch(commit):
        return commit
    raise SourceError(
        f"`{repo}`: the hub names {str(commit)[:80]!r} as its commit", code="MM422", hint="Check HF_ENDPOINT"
    )


def download(repo: str, commit: str, out: Path, progress: Progress, directories: Sequence[str] = ()) -> None:
    """Put the needed files of a model at a commit into ``out``, each compared with the hub's digest and size.

    Without a network the hub's cache is enough, where it holds all of them.

    Raises:
        SourceError: The hub cannot be asked, refuses, breaks off again and again, or sends something else.
    """
    files = _listing(repo, commit)
    names = hf_layout.required_files(files, directories)
    if not names:
        raise SourceError(
            f"`{repo}` at {commit[:12]} holds no model files",
            code="MM402",
            hint="The model needs config.json and weights in Hugging Face layout",
        )
    fetch_files(repo, commit, files, names, out, progress)


def fetch_files(
    repo: str, commit: str, files: hub_index.Listing, names: Sequence[str], out: Path, progress: Progress
) -> None:
    """Put files of a commit into ``out`` under their own names, each compared with the hub's digest and size.

    Args:
        repo: The repository.
        commit: Its commit.
        files: :func:`list_files`.
        names: Which of them.
        out: An existing directory that holds none of them.
        progress: Told the file and the share done.

    Raises:
        SourceError: The hub refuses, breaks off again and again, or sends something else.
    """
    total = sum(files[name].size for name in names) or 1
    done = 0
    for name in names:
        before = done

        def tell(received: int, name: str = name, before: int = before) -> None:
            progress(f"downloading {name}", (before + received) / total)

        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with _explained(repo, commit):
            fetch(HubFileRequest(repo, commit, files[name]), out / name, tell)
        done += files[name].size
    progress("downloaded", 1.0)


def list_files(repo: str, commit: str, *, offline: bool = False) -> hub_index.Listing:
    """The files of a commit with their sizes and digests; with ``offline``, as far as they are remembered.

    Raises:
        SourceError: The hub cannot be asked, and was never asked before.
    """
    from huggingface_hub import constants

    if not (offline or constants.HF_HUB_OFFLINE):
        return _listing(repo, commit)
    known = hub_index.cached_listing(repo, commit)
    if known is None:
        raise SourceError(
            f"the files of `{repo}` at {commit[:12]} are not known offline",
            code="MM422",
            hint="Go online once",
        )
    return known


def _listing(repo: str, commit: str) -> hub_index.Listing:
    """What the hub says of the commit's files; where it cannot be asked, what is known of them."""
    try:
        with _explained(repo, commit):
            return hub_index.query(repo, commit)
    except SourceError as error:
        known = hub_index.cached_listing(repo, commit) if error.code == "MM422" else None
        if known is None:
            raise
        print(f"{error.message}; going on with what the hub's cache holds")
        return known


def _reference(repo: str, name: str) -> Path:
    return hub_index.repo_folder(repo).joinpath("refs", *name.split("/"))


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the client's errors into ours."""
    what = "data set" if hub_index.repo_kind(repo)[1] == "dataset" else "model"
    import httpx
    from huggingface_hub import errors

    where = f"`{repo}`" + (f" at `{revision}`" if revision else "")
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{where} is gated", code="MM421", hint="Ask for access on its page, then set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{where}: the hub knows no such revision", code="MM420", hint=f"Check {_revision_key(repo)}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{where}: the hub knows no such {what}, or it is private",
            code="MM420",
            hint=f"Check the name; for a private {what} set HF_TOKEN",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refused(where, error.__cause__) from error
        raise _unreachable(where, error) from error
    except errors.EntryNotFoundError as error:
        raise SourceError(
            f"{where} has no such file: {str(error).splitlines()[0]}", code="MM420", hint=f"Check the {what}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(where, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceError(
            f"{where}: not whole in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub",
            code="MM422",
            hint="Go online once, or point HF_HOME at a cache that holds it",
        ) from error
    except (httpx.TransportError, OSError) as error:
        raise _unreachable(where, error) from error


def _revision_key(repo: str) -> str:
    """The key of a recipe that says which revision is meant."""
    return "calibration.revision" if hub_index.repo_kind(repo)[1] == "dataset" else "model.revision"


def _refused(where: str, error: Any) -> SourceError:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return SourceError(
            f"{where}: the hub refuses access (HTTP {status})",
            code="MM421",
            hint="Set HF_TOKEN to a valid token",
        )
    return SourceError(
        f"{where}: the hub answers HTTP {status}",
        code="MM422",
        hint="Try again later; finished files are kept",
    )


def _unreachable(where: str, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
        file = f" `{error.filename}`" if error.filename else ""
        return SourceError(
            f"{where}: writing{file} failed: {error.strerror}",
            code="MM424",
            hint="Free space, check permissions, or point HF_HOME elsewhere; what has arrived is kept",
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return SourceError(
        f"{where}: the hub cannot be reached or broke off: {reason}",
        code="MM422",
        hint="Check the network and HF_ENDPOINT; what has arrived is kept, so try again",
    )
