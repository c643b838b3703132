"""Languages as data: a folder each, with its keyboard, its words and the mistakes people make in it."""
