"""From files to batches: documents, shards, curriculum."""
