"""What several machines and people share: lock files, a remote cache, a cluster, CI."""
