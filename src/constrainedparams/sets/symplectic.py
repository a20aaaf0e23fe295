"""Symplectic matrices: linear maps that keep areas in phase space."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..numerics import orthogonal as maps
from ..numerics import symplectic as s
from ..numerics.elementary import precise
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["Symplectic"]


@dataclass(frozen=True, repr=False)
class Symplectic(MatrixConstraint):
    """Sp(2n), real: y^T J y = J with J = [[0, I], [-I, 0]].

    y = base exp(K) (S + (I + S^2)^1/2), with K and S the skew part of what commutes with J in x,
    and the symmetric part of what anticommutes: the polar decomposition. The second factor is
    exp(asinh S), every symmetric positive definite symplectic matrix, and does not overflow as
    exp(S) does. One exponential exp(x) would not do: it does not reach all of the group. The state
    ``base`` is orthogonal and symplectic: that factor of the last y of ``right_inverse`` or
    ``retract``.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., 2n, 2n), n > 0; x and ``base`` have the shape of y. Dtypes: real.
    The residual is |y^T J y - J| / |y|^2 in Frobenius norms, the share of |y| by which y has to
    change, to first order. ``project`` takes the orthogonal factor of what commutes with J in y,
    and S from what anticommutes in the rest. ``sample`` has a Haar distributed orthogonal factor
    and a Gaussian S.

    Raises:
        ShapeError: not square, or of odd size.

    Example:
        >>> import torch
        >>> from constrainedparams import Symplectic
        >>> y = Symplectic()(torch.randn(4, 4))
        >>> j = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.eye(2))
        >>> torch.allclose(y.mT @ j @ y, j, atol=1e-4)
        True
        >>> Symplectic().contains(torch.diag(torch.tensor([2.0, 0.5])))
        tensor(True)
    """

    state_names: ClassVar[tuple[str, ...]] = ("base",)
    dtype_remedy: ClassVar[str] = "Give a real tensor, for example `.real`."
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "base, the orthogonal factor of the start")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1] and shape[-1] % 2 == 0 and shape[-1] > 0:
            return None
        return "expected square matrices of even size: positions, then momenta."

    def _rotation(self, x: Tensor, base: Tensor | None) -> Tensor:
        # A base that was cast is orthogonal to the rounding of that dtype only.
        start = None if base is None else maps.newton_schulz(base, 2)
        return s.rotation_from(start, x)

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        k, p = self._rotation(x, base), s.positive(s.anticommuting(precise(x)))
        return (precise(k) @ p).to(x.dtype)

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        k, generator = s.rotation_and_generator(y)
        return generator, {"base": k}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return s.anticommuting(x), {"base": self._rotation(x, state.get("base"))}

    def _residual(self, y: Tensor) -> Tensor:
        return s.defect(y)

    def _project(self, y: Tensor) -> Tensor:
        k, generator = s.rotation_and_generator(y)
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(off[..., None, None], (k @ s.positive(generator)).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        made: Any = {"dtype": like.dtype, "device": like.device, "generator": generator}
        k = s.haar_rotation(torch.randn(shape, **made))
        spread = s.anticommuting(torch.randn(shape, **made)) / shape[-1] ** 0.5
        return self._project(k @ s.positive(spread))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1] * (shape[-1] + 1) // 2
