"""The recipe that ``mmbuild init`` writes for a model: which model it is, limits for this machine, the text."""
