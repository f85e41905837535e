"""The command of `timm-ext` that scales EfficientNet to a budget."""

from dataclasses import asdict

import click

from ..console import print_json, table
from .options import as_json
from .verb import verb

__all__ = ["scale"]


@verb(examples=["timm-ext scale --budget 2.0G", "timm-ext scale --budget 20ms"])
@click.option("--budget", required=True, help="2.0G multiply-adds, 12M parameters or 20ms per image, measured here.")
@as_json
def scale(budget: str, as_json: bool) -> None:
    """Find the largest EfficientNet of the compound rule within a budget, and show the family up to it.

    timm.create_model("ext_efficientnet", phi=...) makes the net that is found.
    """
    from ..catalog.scaling import family, largest_phi, read_budget

    wanted = read_budget(budget)

    def tried(phi: float, cost: float) -> None:
        click.echo(f"phi {phi:g}\t{cost:.2f} {wanted.kind}", err=True)

    phi = largest_phi(wanted, tried if wanted.kind == "latency" and not as_json else lambda phi, cost: None)
    found = family(phi)
    if as_json:
        return print_json({"budget": asdict(wanted), "phi": phi, "family": [asdict(item) for item in found]})
    table(
        ("phi", "width", "depth", "resolution", "parameters", "GMACs"),
        [
            (f"{v.phi:g}", f"{v.width:.3f}", f"{v.depth:.3f}", v.resolution, f"{v.params / 1e6:.2f}M", f"{v.gmacs:.2f}")
            for v in found
        ],
    )
    return click.echo(f'timm.create_model("ext_efficientnet", phi={phi:g})')
