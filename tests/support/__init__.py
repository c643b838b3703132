"""What tests share: stand-ins, small models and recipes, and ways to start programs."""
