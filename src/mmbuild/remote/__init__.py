"""The shared store: results of actions in a place that several machines reach, any URL of fsspec.

``settings``    what the user configured, read without importing anything heavy
``place``       the few operations that are asked of a file system, and where things lie there
``calls``       deadlines, retries, and giving up on a place for the rest of a run
``entries``     what is published for an action, as JSON
``signatures``  ed25519 over entries
``shared``      one run's view of the place: asks for results and manifests
``pull``        artifacts from there to here
``push``        results from here to there
``session``     an apply with a shared store: pulls before, pushes beside
``collect``     shrinking the place

The layout, under a directory named for its version (``v1``)::

    objects/ab/<blake3>          contents of files; never change
    manifests/ab/<artifact>.json an artifact's files, canonical JSON; its BLAKE3 is the artifact's digest
    actions/ab/<action key>.json the result of an action; published last, and by the first who has it
    used/ab/<artifact>           written when the artifact was last pulled by somebody who may write
    exclusive, collect.lock      a probe for exclusive creation; the lock of ``cache gc --remote``

Nothing that is read from there is believed: contents and manifests are held against their names, and entries against
the key that was asked for and, where the configuration asks, a signature. Importing this package reads nothing.
"""
