"""A run and its records."""

from __future__ import annotations

from dataclasses import dataclass

from mmbuild.serving.bench.load import Load
from mmbuild.serving.bench.records import Record


@dataclass(frozen=True, slots=True)
class Run:
    """The records of one load.

    Attributes:
        load: The load.
        records: In the order in which requests ended or were due.
        distinct_questions: Different pictures and prompts among them, at most.
        client_cpu: Share of a CPU core that the client used, 0 to 1; None in process.
    """

    load: Load
    records: tuple[Record, ...]
    distinct_questions: int
    client_cpu: float | None = None

    @property
    def failed(self) -> bool:
        """Whether no request has a complete answer."""
        return all(record.failure is not None for record in self.records)
