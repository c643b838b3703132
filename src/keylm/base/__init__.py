"""What every package builds on: errors, atomic files, progress, the machine."""
