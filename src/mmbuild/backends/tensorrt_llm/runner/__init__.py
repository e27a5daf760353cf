"""Runs the commands of a toolchain.

``workdir``  a directory with the layout that upstream's page has
``command``  one command, its output read for known lines
``infer``    questions to an engine, through upstream's own runner
"""
