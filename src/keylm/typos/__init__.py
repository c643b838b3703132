"""The typo engine: noise as people make it, fitted to real errors."""
