"""Pages and cards about a run: rendered from its files alone."""
