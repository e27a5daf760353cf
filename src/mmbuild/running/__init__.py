"""Running the commands of a toolchain: a directory laid out as upstream's page has it, and one command in it.

``workplace``  the directory
``command``    one command, its output read for known lines
"""
