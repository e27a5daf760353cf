"""Running an engine that is split over ranks: one process a rank, started by mpirun.

Rank 0 is the program that asks and answers; the other ranks obey it.

========== ===================================================================================
module     what it is about
========== ===================================================================================
launchers  which mpirun there is, and how each kind wants to be called
launch     the parent: starts the ranks, waits, tells the first failure
terminal   rank 0 writes to the parent's terminal itself
__main__   one rank of a command that the parent started
world      inside a rank: who am I, the process group, agreeing on failures
enter      how an engine of several ranks is loaded
lead       rank 0: every call is told to the others, then done here
follow     the other ranks: do what rank 0 says
failures   a rank's failure as data
========== ===================================================================================
"""
