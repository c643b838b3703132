"""One TOML file that is a whole model, and the folder that a run of it fills."""
