"""Text to tokens: the tokenizer, a fast path for it, and sentence splitting."""
