"""What made the released models, the figures and the embedded corpus; run from the checkout as `python -m tools.…`."""
