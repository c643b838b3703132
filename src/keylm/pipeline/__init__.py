"""The stages of a run in order, and what can be asked about them."""
