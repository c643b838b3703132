"""From a checkpoint to what users open."""
