"""The shared store: results of actions in a place that several machines reach, any URL of fsspec.

``object_store``     minimal operations on a file system, and the layout there
``s3``               what S3 can do besides
``retrying_client``  deadlines, retries, and giving up on a place for the rest of a run
``records``          what is published for an action, as JSON
``signatures``       ed25519 over records
``remote_cache``     one run's view of the place: looks up results and manifests
``pull``             artifacts from there to here
``push``             results from here to there
``sync``             an apply with a shared store: pulls first, pushes what is built
``gc``               shrinks the place

The layout, under a directory named for its version (``v1``)::

    objects/ab/<blake3>          contents of files; never change
    manifests/ab/<artifact>.json an artifact's files, canonical JSON; its BLAKE3 is the artifact's digest
    actions/ab/<action key>.json the result of an action; published last, and by the first who has it
    used/ab/<artifact>           written when the artifact was last pulled by somebody who may write
    exclusive, collect.lock      a probe for exclusive creation; the lock of ``cache gc --remote``

Nothing that is read from there is trusted: contents and manifests are compared with their names, and records with the
requested key and, where the configuration requires one, a signature. Importing this package reads nothing.
"""
