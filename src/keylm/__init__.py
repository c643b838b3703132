"""keylm: make a small language model from scratch, one recipe from raw text to a talking model."""

__version__ = "0.1.0"
