"""What the workers of one server share beside metrics and limits: the last decisions, the operating point."""

from __future__ import annotations

from proxy.operating_point import OperatingPoint
from proxy.recent import Recent
from routing.errors import SettingsError


class Board:
    """One a process; it outlives reloads. Raises `SettingsError` when the memory cannot be had."""

    def __init__(self) -> None:
        try:
            self.recent = Recent()
            self.point = OperatingPoint()
        except OSError as error:
            raise SettingsError(f"no memory can be shared between workers: {error.strerror}") from error

    async def close(self) -> None:
        self.recent.close()
        self.point.close()
