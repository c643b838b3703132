"""The decoder, its kernels, and its folder in the stock Qwen3 layout."""
