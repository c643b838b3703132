"""After pretraining: tuning on conversations, preferences and rewards."""
