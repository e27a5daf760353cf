"""The shared store: results of actions at any fsspec URL that several machines can reach.

``object_store``     minimal operations on a file system, and the remote layout
``s3``               multipart uploads to S3
``retrying_client``  deadlines, retries, and giving up on a store for the rest of a run
``records``          the published form of a result, as JSON
``signatures``       ed25519 signatures of published results
``remote_cache``     a run's view of the shared store: looks up results and manifests
``pull``             downloads artifacts
``push``             uploads results
``sync``             an apply with a shared store: pulls first, pushes what is built
``gc``               removes unused artifacts

The layout, in a directory named after its version (``v1``)::

    objects/ab/<blake3>          file contents; never change
    manifests/ab/<artifact>.json an artifact's files, canonical JSON; its BLAKE3 is the artifact's digest
    actions/ab/<action key>.json the result of an action; published last, by the first machine that has it
    used/ab/<artifact>           written when a client with write access last pulled the artifact
    exclusive, collect.lock      a probe for exclusive creation; the lock of ``cache gc --remote``

Nothing read from there is trusted: contents and manifests are checked against their names, and results against the
requested key and, if the configuration requires it, a signature. Importing this package reads nothing.
"""
