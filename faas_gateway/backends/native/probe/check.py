"""One finding of the probe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "degraded", "missing"]


@dataclass(frozen=True)
class Check:
    """What one thing that sandboxes need is like on this machine."""

    name: str
    state: State
    """ok; degraded: sandboxes work, something is enforced less firmly; missing: no sandbox can be made."""
    detail: str
    remedy: str = ""
    """The command, or failing that the sentence, that mends it. Empty when the state is ok."""

    @property
    def ok(self) -> bool:
        """False when sandboxes are impossible because of this."""
        return self.state != "missing"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}
