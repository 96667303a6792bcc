"""What every measurement over named axes has in common: its data, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import xarray as xr

__all__ = ["Measured"]


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers over named axes; the attribute `provenance` of the data is a JSON text."""

    data: xr.Dataset

    @property
    def provenance(self) -> dict[str, Any]:
        """Model fingerprint, versions and every setting."""
        found = json.loads(self.data.attrs["provenance"])
        assert isinstance(found, dict)
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, as in the provenance: prompt, answer and others."""
        found = self.provenance["settings"]
        assert isinstance(found, dict)
        return found
