"""Visual engines: what turns pixels into visual features."""
