"""After pretraining: instruction tuning and preference tuning."""
