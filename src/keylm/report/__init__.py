"""Pages and cards about a run: drawn from its files, never from memory."""
