"""`python -m keylm`, which torchrun needs."""

from keylm.cli.main import main

main()
