"""Actions as tasks of a Ray cluster (docs/cluster.md): the same loop, store, keys and events as on one machine.

``connect``   importing Ray late, and a connection to a cluster, or a Ray of this machine for one run
``question``  what the driver tells each node and asks of it; plain data that travels
``node``      what runs on a node: answering, and running one action through a fork server as everywhere
``nodes``     which nodes can run which actions
``carry``     artifacts of nodes that do not see the driver's store, through the shared store
``attempts``  one action from the driver's side: submitted, followed, carried, tried again when its node is lost
``executor``  all of it together

The driver holds the locks and writes the journal. Importing this package imports no Ray.
"""
