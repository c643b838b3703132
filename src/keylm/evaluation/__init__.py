"""What a model can do: benchmarks, typing, instructions, robustness to typing errors, contamination."""
