"""`python -m keylm`, which torchrun needs."""

from keylm.cli import main

main()
