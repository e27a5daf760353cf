"""What ``/metrics`` shows, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """The metrics of one server."""

    def __init__(self, counts: Callable[[], tuple[int, int]]) -> None:
        """``counts``: requests in slots, and waiting ones."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "mmbuild_requests", "Requests by HTTP status.", ["status"], registry=registry
        )
        self._prompt = Counter("mmbuild_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._tokens = Counter("mmbuild_generated_tokens", "Generated tokens.", registry=registry)
        self._queued = Histogram(
            "mmbuild_queue_seconds", "Time until a slot is free.", buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "mmbuild_time_to_first_token_seconds",
            "Time from the whole request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._each = Histogram(
            "mmbuild_time_per_output_token_seconds",
            "Time between tokens, the mean of each request.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        running = Gauge("mmbuild_requests_running", "Requests in slots.", registry=registry)
        running.set_function(lambda: counts()[0])
        waiting = Gauge("mmbuild_requests_waiting", "Requests without a slot.", registry=registry)
        waiting.set_function(lambda: counts()[1])

    def request(self, status: int) -> None:
        """Count a request."""
        self._requests.labels(str(status)).inc()

    def answer(self, prompt: int, tokens: int, queued: float, first: float | None, total: float) -> None:
        """Count an answer: its tokens, and seconds until it had a slot, a token and its end."""
        self._prompt.inc(prompt)
        self._tokens.inc(tokens)
        self._queued.observe(queued)
        if first is not None:
            self._first.observe(first)
            if tokens > 1:
                self._each.observe((total - first) / (tokens - 1))

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)
