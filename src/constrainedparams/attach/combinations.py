"""The sets that are two sets at once, for whoever tries to register a second one."""

from typing import Any

from ..sets.contract import Constraint

__all__ = ["JOINT", "second_set"]

# Names of two sets -> the set that is both, and when. docs/sets.md shows the table.
JOINT: dict[tuple[str, str], str] = {
    ("Ordered", "Simplex"): "Simplex(ordered=True)",
    ("FixedEntries", "Simplex"): "Simplex(mask=mask)",
    ("Ordered", "Positive"): "PositiveOrdered()",
    ("GreaterThan", "LessThan"): "Interval(lower, upper)",
    ("AffineSubspace", "Sphere"): "Sphere(radius, A), where b = 0",
    ("Sphere", "SumToZero"): "Sphere(orthogonal_to=[[1, ..., 1]])",
    ("PositiveDefinite", "SpecialLinear"): "UnitDeterminantPositiveDefinite()",
    ("PositiveDefinite", "PositiveDefinite"): "PositiveDefinite(lower, upper)",
    ("CorrelationCholesky", "FixedEntries"): "CorrelationCholesky(mask=mask)",
    ("FixedEntries", "LowerTriangular"): "LowerTriangular(diagonal=value), of a given diagonal",
    ("FixedEntries", "UpperTriangular"): "UpperTriangular(diagonal=value), of a given diagonal",
    ("LowRank", "PositiveSemidefinite"): "PositiveSemidefinite(rank=rank)",
    ("FixedRank", "PositiveSemidefinite"): "FixedRankPositiveSemidefinite(rank)",
    ("PositiveDefinite", "Symmetric"): "PositiveDefinite()",
    ("NonNegative", "Simplex"): "Simplex(closed=True)",
    ("DoublyStochastic", "Simplex"): "DoublyStochastic()",
    ("Orthogonal", "SpecialLinear"): "SpecialOrthogonal()",
    ("LowerTriangular", "Positive"): "CholeskyFactor(), positive on the diagonal",
}


def second_set(one: Any, other: Any) -> str:
    """Why two sets on one tensor are refused, and the set that is both, or all there are."""
    if not (isinstance(one, Constraint) and isinstance(other, Constraint)):
        return ""
    names = sorted((type(one).__name__, type(other).__name__))
    found = JOINT.get((names[0], names[1]))
    if found is None and names[0] == names[1]:
        return ""
    if found is None:
        there = ", ".join(f"{a} and {b}: {joint}" for (a, b), joint in JOINT.items())
        found = f"none for these two; {there}"
    return (
        " Two sets are not put on one tensor: the map onto the second would take y off the first. "
        f"A set that is both: {found}."
    )
