"""What balls and spheres say of a radius with which they do not exist."""

import math

from ..errors import OptionError

__all__ = ["check_radius"]


def check_radius(radius: object) -> None:
    """Raise OptionError unless the radius is a positive, finite number."""
    if not (isinstance(radius, int | float) and math.isfinite(radius) and radius > 0):
        raise OptionError(f"radius={radius!r}: expected a positive, finite number.")
