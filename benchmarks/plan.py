"""How much a run measures, and where it keeps what it builds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATE = Path(__file__).resolve().parent.parent / "build" / "bench-state"


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        quick: a smoke run: every step, few repetitions, no verdict worth keeping.
        state: state folder of the gateways: the packages of `python-ai` stay there for the next run.
    """

    quick: bool = False
    state: Path = STATE

    def times(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def seconds(self, full: float, quick: float) -> float:
        return quick if self.quick else full
