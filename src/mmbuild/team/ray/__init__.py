"""Runs actions as tasks on a Ray cluster (docs/cluster.md), with the usual scheduler, store, keys and events.

``connect``            imports Ray on demand and connects to a cluster, or starts a local Ray for one run
``protocol``           messages between driver and nodes; plain data
``remote_worker``      runs on a node: describes it, and runs an action through a fork server
``node_selection``     which nodes can run which actions
``artifact_transfer``  transfers artifacts through the shared store for nodes that cannot access the driver's store
``task_runner``        the driver's side of a task: submits and monitors it, and retries it if its node is lost
``executor``           the executor that combines these

The driver holds the locks and writes the action cache. Importing this package does not import Ray.
"""
