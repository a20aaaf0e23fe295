"""The promises of the contract, one function for each."""

from . import calling, derivatives, mapping, membership
from .checking import Promise, PromiseBroken

__all__ = ["PROMISES", "Promise", "PromiseBroken"]

PROMISES: list[Promise] = [
    *mapping.PROMISES,
    *membership.PROMISES,
    *derivatives.PROMISES,
    *calling.PROMISES,
]
