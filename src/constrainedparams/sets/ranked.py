"""What sets of matrices of a given rank say of a rank that does not fit."""

from ..errors import OptionError
from .contract import Shape

__all__ = ["check_rank", "rank_fits"]


def check_rank(rank: object) -> None:
    """Raise OptionError unless the rank is a whole number above 0."""
    if type(rank) is not int or rank < 1:
        raise OptionError(f"rank={rank!r}: expected a whole number above 0.")


def rank_fits(rank: int, shape: Shape) -> str | None:
    """What :meth:`Constraint._check` says of matrices that are smaller than the rank."""
    if rank <= min(shape[-2:]):
        return None
    return f"expected at least {rank} rows and columns. Use a lower rank, or another view=."
