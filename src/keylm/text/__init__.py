"""Text to tokens: the tokenizer and what makes it fast."""
