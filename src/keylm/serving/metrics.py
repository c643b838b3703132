"""What the server counts, in Prometheus' format."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's counters; several servers in a process have separate ones."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """Take what says how many texts are under way and how many wait."""
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter("keylm_requests", "Requests answered", ["route", "status"], registry=own)
        self.cancelled = Counter("keylm_cancelled", "Requests whose client hung up", registry=own)
        self.read = Counter("keylm_prompt_tokens", "Tokens of prompts", registry=own)
        self.cached = Counter("keylm_cached_tokens", "Tokens of prompts that were known from before", registry=own)
        self.written = Counter("keylm_generated_tokens", "Tokens written", registry=own)
        self.first = Histogram("keylm_first_text_seconds", "Until a text's first piece", buckets=SECONDS, registry=own)
        self.took = Histogram(
            "keylm_request_seconds", "Until a request was answered", ["route"], buckets=SECONDS, registry=own
        )
        active = Gauge("keylm_active_texts", "Texts under way", registry=own)
        active.set_function(lambda: load()[0])
        waiting = Gauge("keylm_waiting_texts", "Texts that wait for a place", registry=own)
        waiting.set_function(lambda: load()[1])

    def page(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self._registry)
