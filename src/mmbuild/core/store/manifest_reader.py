"""Reading an artifact's manifest from a store."""

from __future__ import annotations

from mmbuild.base.errors import MmbuildError
from mmbuild.base.files import FileRefusedError, read_file
from mmbuild.base.limits import STORE_TREE
from mmbuild.core.store.layout import Store
from mmbuild.core.store.manifest import Tree, damaged_manifest, parse_manifest, tree_digest


def read_tree(store: Store, digest: str) -> Tree:
    """The files of an artifact.

    Raises:
        MmbuildError: MM304 it is not in the store, or its manifest is damaged, or that of another artifact.
    """
    try:
        text = read_file(store.manifest(digest), STORE_TREE)
    except FileNotFoundError as error:
        raise MmbuildError(
            f"artifact `{digest}` is not in the store `{store.root}`",
            code="MM304",
            hint="apply the recipe again; what is missing is built",
        ) from error
    except (OSError, FileRefusedError) as error:
        raise damaged_manifest(digest, error) from error
    tree = parse_manifest(text, digest)
    if tree_digest(tree) != digest:
        raise damaged_manifest(digest, "it is that of another artifact")
    return tree
