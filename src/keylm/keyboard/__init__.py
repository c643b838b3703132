"""The keyboard engine: which words come next, and which word was meant."""
