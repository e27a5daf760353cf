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
load          how an engine of several ranks is loaded
leader        rank 0: every call is sent to the others, then executed here
rank_worker   the other ranks: execute what rank 0 sends
failures      a rank's failure as data
============= ================================================================================
"""
