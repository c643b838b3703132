"""One model folder to every format, each compared with PyTorch before it gets its name."""
