"""Runs an engine that is split over ranks: one process for each rank, started by mpirun.

Rank 0 runs the program; the other ranks execute the calls that it broadcasts.

============= ================================================================================
module        what it is about
============= ================================================================================
mpirun        which mpirun is installed, and how each kind is called
launch        the parent: starts the ranks, waits, reports the first failure
stdio         rank 0 writes to the parent's terminal itself
__main__      one rank of a command that the parent started
process_group inside a rank: its number, the process group, agreeing on failures
collectives   sums over ranks, inside the compiled packages
failures      a rank's failure as data
============= ================================================================================

What the ranks do, calls that rank 0 broadcasts and the others execute, is in ``backends/torch/rank_worker.py``.
"""
