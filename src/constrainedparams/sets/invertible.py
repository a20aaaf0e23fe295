"""Square matrices with an inverse."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import invertible as i
from ..numerics import orthogonal as maps
from ..numerics.elementary import determinant_sign, oriented, precise, real_diagonal, with_value
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["Invertible"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class Invertible(MatrixConstraint):
    """GL(n), in the component of the start: the determinant of real y keeps the sign of base's.

    y = Q R with Q = base exp(S), S the skew-Hermitian matrix of the lower triangle of x, and
    R = triu(x, 1) + diag(softplus(diag x)): the Iwasawa decomposition (Annals of Mathematics 50,
    1949). Every entry of x is read once, and log |det y| = sum of log R_ii. The exponential of x
    itself would not do: diag(-1, -2) has no real logarithm. The state ``base`` is orthogonal
    (unitary): the Q of the last y of ``right_inverse`` or ``retract``. Where R is singular to
    rounding its smallest singular values are raised to 6 n^1/2 rounding units, so that y is
    invertible, and its determinant has the right sign, for every x.

    Args:
        sign: 1 for GL+, determinants above 0 (real only); None for all.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the QR factorisation. The residual is how far the smallest singular value
    of y with columns of length 1 (``sign=1``: times the sign of the determinant) is below rounding:
    a matrix that is singular to rounding is off the set. ``project`` moves singular values to at
    least a thousandth of the largest, and for another sign the smallest to minus that (nearest but
    for this margin). ``sample`` has entries N(0, 1/n) (``sign=1``: given a determinant above 0).

    Raises:
        OptionError: another sign.
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Invertible
        >>> bool(torch.linalg.det(Invertible()(torch.randn(3, 3))) > 0)
        True
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> Invertible().contains(swap), Invertible(sign=1).contains(swap)
        (tensor(True), tensor(False))
    """

    sign: int | None = None

    state_names: ClassVar[tuple[str, ...]] = ("base",)
    dtype_remedy: ClassVar[str] = "Complex determinants have no sign: use Invertible()."
    has_complex = property(lambda self: self.sign is None)
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2) base, the orthogonal factor of the start")

    @property
    def onto(self) -> str:
        everything = "the component of the start (real), the whole set (complex)"
        return everything if self.sign is None else "the whole set"

    def _check_options(self) -> None:
        if self.sign not in (None, 1):
            raise OptionError(
                f"sign={self.sign!r}: expected None or 1. To keep a negative determinant negative "
                "use Invertible()."
            )

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "an invertible matrix is square. For a tall weight use a set such as Stiefel."

    def _factors(self, x: Tensor, base: Tensor | None) -> tuple[Tensor, Tensor]:
        """Q and R."""
        # A base that was cast is orthogonal to the rounding of that dtype only.
        start = None if base is None else maps.newton_schulz(base, 2)
        q = maps.moved(maps.exponential(x), start)
        return q, i.upper(x)

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        q, r = self._factors(x, base)
        slack = 6 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps
        return with_value(q @ r, q.detach() @ i.away_from_singular(r.detach(), slack))

    def _factorization(  # type: ignore[override]
        self, x: Tensor, base: Tensor | None = None
    ) -> dict[str, Tensor]:
        q, r = self._factors(x, base)
        return {"q": q, "r": r, "logdet": real_diagonal(r).log().sum(-1)}

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        q, r = maps.positive_qr(precise(y))
        return i.upper_inverse(r, y.dtype), {"base": q}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        real = torch.diag_embed(real_diagonal(x))
        return x.triu(1) + real, {"base": self._factors(x, state.get("base"))[0]}

    def _residual(self, y: Tensor) -> Tensor:
        gap = i.separation(y) * (1.0 if self.sign is None else determinant_sign(y))
        return (2 * self._tolerance(tuple(y.shape), y.dtype) - gap).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 2 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(off[..., None, None], i.clip_singular_values(y, _MARGIN, self.sign), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        y = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        y = y / max(shape[-1], 1) ** 0.5
        return self._project(y if self.sign is None else oriented(y))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return 2 * n * n if is_complex else n * n
