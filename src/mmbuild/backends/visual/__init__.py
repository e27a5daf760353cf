"""Visual engines, which compute visual features from pixels."""
