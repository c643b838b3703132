"""The command line: each verb reads its arguments and calls one importable function."""
