"""Runs the commands of a toolchain.

``workdir``  a work directory laid out as upstream's page expects
``command``  runs one command and scans its output for known lines
``infer``    runs an engine through upstream's own runner
``engine``   the runner behind ``mmbuild run`` and ``mmbuild verify``
"""
