"""The base of every part of the configuration, and the types its numbers have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
