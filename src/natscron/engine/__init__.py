"""WHO DECIDES: planning, leadership, journal."""
