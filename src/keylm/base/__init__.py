"""What everything stands on: errors, whole files, progress, the machine."""
