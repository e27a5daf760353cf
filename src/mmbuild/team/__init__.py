"""Features for teams: lock files, a shared remote cache, cluster execution and CI."""
