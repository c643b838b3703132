"""A model behind HTTP: OpenAI's protocol, and suggestions for keyboards."""
