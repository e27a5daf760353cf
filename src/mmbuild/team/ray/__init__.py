"""Actions as tasks of a Ray cluster (docs/cluster.md): the same scheduler, store, keys and events as on one machine.

``connect``            imports Ray late, and connects to a cluster, or starts a Ray of this machine for one run
``protocol``           what the driver sends to each node and gets back; plain data
``remote_worker``      what runs on a node: answers, and runs one action through a fork server as everywhere
``node_selection``     which nodes can run which actions
``artifact_transfer``  artifacts of nodes that do not see the driver's store, through the shared store
``task_runner``        one action from the driver's side: submits, monitors and transfers it, retries a lost node
``executor``           all of it together

The driver holds the locks and writes the action cache. Importing this package imports no Ray.
"""
