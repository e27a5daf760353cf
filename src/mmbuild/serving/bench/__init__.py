"""``mmbuild bench``: latency and throughput of an engine in this process, or of a server.

``load`` says when requests start, ``workload`` what they ask, ``records`` what is noted of each, ``metrics`` what
follows from that. ``batches`` and ``in_process`` measure an engine, ``client`` and ``server`` an OpenAI-compatible
server; both use the same clock. ``document`` is the result as JSON, ``table`` and ``page`` show it.
"""
