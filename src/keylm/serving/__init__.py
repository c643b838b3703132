"""A model over HTTP: OpenAI's protocol, suggestions for keyboards, and the page."""
