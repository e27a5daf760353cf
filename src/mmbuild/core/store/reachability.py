"""The artifacts in a store, and the named builds that reach them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbuild.base.errors import MmbuildError
from mmbuild.core.store.action_cache import ActionCache
from mmbuild.core.store.atomic_files import names_in
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import Tree, read_tree
from mmbuild.core.store.named_builds import Root, all_roots


@dataclass(frozen=True, slots=True)
class Reachable:
    """An artifact in the store.

    Attributes:
        digest: Its digest.
        tree: Its files; None if the manifest is damaged.
        label: Label of the action that last built it; empty if not in the journal.
        used: Time of its last use as an input or of its creation, seconds since the epoch.
        recipes: Named builds that reach it.
    """

    digest: str
    tree: Tree | None
    label: str
    used: float
    recipes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in the store, including files shared with other artifacts."""
        return self.tree.size if self.tree is not None else 0


def reachable_artifacts(store: Store, cache: ActionCache) -> list[Reachable]:
    """Return every artifact, most recently used first."""
    labels = {record.digest: record.label for record in cache.by_key.values()}
    reached = reached_by(live_roots(store))
    artifacts = []
    for path in names_in(store.root / "manifests"):
        if path.name.startswith(".") or path.suffix != ".json":
            continue
        digest = path.stem
        used = path.lstat().st_mtime
        recipes = tuple(reached.get(digest, ()))
        artifacts.append(Reachable(digest, _tree(store, digest), labels.get(digest, ""), used, recipes))
    return sorted(artifacts, key=lambda artifact: (-artifact.used, artifact.digest))


def live_roots(store: Store) -> list[Root]:
    """Return the named builds whose engine directory still exists."""
    return [root for root in all_roots(store) if Path(root.directory).is_dir()]


def reached_by(roots: Iterable[Root]) -> dict[str, list[str]]:
    """Return the names of builds by the digest of each artifact they were built from."""
    reached: dict[str, list[str]] = {}
    for root in roots:
        for digest in {*root.artifacts.values(), *root.targets.values()}:
            reached.setdefault(digest, []).append(root.recipe)
    return reached


def _tree(store: Store, digest: str) -> Tree | None:
    try:
        return read_tree(store, digest)
    except MmbuildError:
        return None
