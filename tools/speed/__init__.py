"""Measurements of speed; results/ has what they measured."""
