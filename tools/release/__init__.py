"""A release, from packed data to models/: README.md beside this."""
