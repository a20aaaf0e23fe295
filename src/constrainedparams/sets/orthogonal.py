"""Matrices with orthonormal columns (tall, square) or rows (wide)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import orthogonal as maps
from ..numerics.elementary import with_value
from .contract import MatrixConstraint, Shape

__all__ = ["Orthogonal"]

_MAPS = {"exp": maps.exponential, "cayley": maps.cayley}


@dataclass(frozen=True, repr=False)
class Orthogonal(MatrixConstraint):
    """Orthogonal (complex: unitary) matrices y^H y = I; for n != k the Stiefel manifold.

    y = Q phi(A) I_{n x k} D with A = [[S, -R^H], [R, 0]], S the skew-Hermitian matrix of the lower
    triangle of x's top k x k block and R the rest of x; Q and D move I_{n x k} to the state
    ``base`` (for n = k: y = base phi(S)). phi is ``"exp"`` (Lezcano-Casado, Martinez-Rubio, arXiv
    1901.08428, with the base of 1909.09501) or ``"cayley"``, phi(A) = (I - A/2)^-1 (I + A/2),
    cheaper, and less than half a turn from base. Square real y keep the sign of their
    determinant. Wide y are the conjugate transposes of tall ones. Nothing is n x n for n > k: exp
    goes through 2k x 2k, Cayley through k x k. Only the lower triangle (complex: and the imaginary
    diagonal) of the k x k block is read.

    Args:
        map: ``"exp"`` or ``"cayley"``.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k), any n and k; x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = 0 and base = y, polished; ``project`` is the polar factor, which is
    nearest; ``sample`` is Haar; the residual is |y^H y - I|_F.

    Raises:
        OptionError: an unknown map.

    Example:
        >>> import torch
        >>> from constrainedparams import Orthogonal
        >>> y = Orthogonal()(torch.randn(6, 2))
        >>> torch.allclose(y.mT @ y, torch.eye(2), atol=1e-6)
        True
        >>> x, state = Orthogonal("cayley").right_inverse(y)
        >>> torch.allclose(Orthogonal("cayley")(x, **state), y, atol=1e-6)
        True
    """

    map: Literal["exp", "cayley"] = "exp"

    state_names: ClassVar[tuple[str, ...]] = ("base",)
    has_complex: ClassVar[bool] = True

    one_to_one = property(lambda self: self.map == "cayley")
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "base, the value at the last right_inverse or retract")

    @property
    def onto(self) -> str:
        reached = "the component of the start (real square), the whole set (complex, or n != k)"
        return reached + ("" if self.map == "exp" else ", but for points half a turn from base")

    def _check_options(self) -> None:
        if self.map not in _MAPS:
            raise OptionError(f"map={self.map!r}: expected one of {', '.join(map(repr, _MAPS))}.")

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH, None if base is None else base.mH).mH
        z = _MAPS[self.map](x)
        y = z if base is None else maps.transport(base, z)
        # Squaring and solving lose digits with |x|; one step gives them back and is no part of f.
        return with_value(y, maps.newton_schulz(y.detach(), 2))

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.zeros_like(y), {"base": self._project(y)}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        return maps.defect(y if y.shape[-2] >= y.shape[-1] else y.mH).to(y.real.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries of size n^-1/2 rounded to eps move y^H y by about eps k^1/2; maps and sums of n
        # products in the dtype of the computation add up to eps n.
        n, k = max(shape[-2:]), min(shape[-2:])
        eps = torch.finfo(dtype).eps
        return 2 * eps * k**0.5 + 8 * min(eps, torch.finfo(torch.float32).eps) * n

    def _project(self, y: Tensor) -> Tensor:
        return maps.polar(y) if y.shape[-2] >= y.shape[-1] else maps.polar(y.mH).mH

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, k = shape
        tall = (*batch, max(n, k), min(n, k))
        draw = torch.randn(tall, dtype=like.dtype, device=like.device, generator=generator)
        y = maps.haar(draw)
        return y if n >= k else y.mH

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, k = max(shape), min(shape)
        return 2 * n * k - k * k if is_complex else n * k - k * (k + 1) // 2
