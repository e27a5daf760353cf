"""Projects, workshops and clusters in temporary directories."""
