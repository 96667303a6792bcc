"""``mechstyle models``: what is embedded."""

from __future__ import annotations

from mechstyle.cli.options import Json, Quiet, Seed
from mechstyle.cli.output import emit

__all__ = ["models"]


def models(as_json: Json = False, seed: Seed = 0, quiet: Quiet = False) -> None:
    """List the trained models that come with the package."""
    from mechstyle.models import list_models

    found = list_models()
    rows = [
        {
            "name": info.name,
            "n_layers": info.n_layers,
            "d_model": info.d_model,
            "n_params": info.n_params,
            "description": info.description,
            "folder": str(info.folder),
        }
        for info in found
    ]
    lines = [
        f"{info.name}: {info.n_layers} layers, d_model {info.d_model}, {info.n_params / 1e6:.1f} M parameters"
        + (f". {info.description}" if info.description else "")
        for info in found
    ]
    emit({"models": rows}, "\n".join(lines) or "no models are embedded", as_json=as_json)
