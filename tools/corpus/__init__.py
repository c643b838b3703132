"""What the package ships as data: the embedded corpus and the typo rates."""
