"""The contract of a set: public methods implemented once, the mathematics in private hooks."""

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..errors import ConstraintError, ConstraintViolation, DtypeError, OptionError, ShapeError
from ..numerics.precision import full_precision
from .constants import as_constant
from .views import Axes, Folded, Moved, View, frozen_dim, frozen_sizes

__all__ = ["Constraint", "has_option"]

Shape = tuple[int, ...]
Layout = View | Axes | Moved | Folded
_LOW = (torch.bfloat16, torch.float16)
_REAL = (*_LOW, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_SHORTER = {  # what a value may have been rounded to before, the most precise first
    torch.complex128: (torch.complex64,),
    torch.float64: (torch.float32, torch.float16, torch.bfloat16),
    torch.float32: (torch.float16, torch.bfloat16),
}
_UNNAMED = (math.inf, -math.inf)  # their repr is a name that is not defined
_NUMBERS = (int, float, "int", "float")  # annotations, as they are or as words
_FROZEN = {"sizes": frozen_sizes, "dim": frozen_dim}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a map is computed for x in ``dtype``: at least float32."""
    return torch.float32 if dtype in _LOW else dtype


def raised(t: Tensor) -> Tensor:
    """``t`` in the dtype in which maps are computed (differentiably)."""
    wide = compute_dtype(t.dtype)
    return t if t.dtype == wide else t.to(wide)


def has_option(constraint: Any, name: str) -> bool:
    """Whether it is a set with this option: ``"view"`` of matrices, ``"dim"`` of vectors."""
    known = isinstance(constraint, Constraint)
    return known and any(option.name == name for option in fields(constraint))


@dataclass(frozen=True, repr=False)
class Constraint(ABC):
    """A set M and a map f onto it: y = f(x) is in M for every x.

    A set is a value: it compares, hashes, prints and pickles by its options, and one instance
    serves any number of layers. The methods below are final. A new set is a frozen dataclass that
    implements the hooks ``_forward``, ``_right_inverse``, ``_residual``, ``_project``, ``_sample``,
    ``_dimension`` (and, where they apply, ``_check``, ``_tolerance``, ``_round``, ``_polish``,
    ``_retract``, ``_log_abs_det_jacobian``, ``_check_options``, and for an x of another shape
    ``_unconstrained_shape`` and ``_constrained_shape``) and the four properties. Hooks get vectors
    or matrices along the last axes (``dim`` and ``view`` are undone; an x of another shape is left
    as it is by ``view``) in at least float32, and may assume that shape and dtype were checked.

    Shapes: S is the shape of y. x has the shape ``unconstrained_shape(S)``. "Batch shape" is S
    without the axes of one element of the set: one number for each element in y.

    Example:
        >>> import torch
        >>> from constrainedparams import Constraint, NonNegative
        >>> isinstance(NonNegative(), Constraint)
        True
        >>> NonNegative().contains(torch.tensor([1.0, -1.0])).tolist()
        [True, False]
    """

    event_dim: ClassVar[int] = 0
    state_names: ClassVar[tuple[str, ...]] = ()
    has_complex: ClassVar[bool] = False
    dtype_remedy: ClassVar[str] = "Cast it first, for example with `.float()`."
    view: ClassVar[Any] = None
    sizes: ClassVar[Any] = None
    dim: ClassVar[Any] = None
    _layout: ClassVar[Layout | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls).keys() & _FINAL:
            raise TypeError(
                f"{cls.__name__}.{name} is implemented once, by Constraint, with all its checks. "
                f"Implement the hook `_{name.strip('_')}` instead."
            )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = _FROZEN.get(option.name, as_constant)(getattr(self, option.name))
            if option.type in (bool, "bool") and not isinstance(value, bool):
                raise OptionError(f"{option.name}={value!r}: expected True or False.")
            if option.type in _NUMBERS and isinstance(value, bool):
                raise OptionError(f"{option.name}={value!r}: expected a number, such as 1.0.")
            object.__setattr__(self, option.name, value)
        object.__setattr__(self, "_layout", self._make_layout())
        self._check_options()

    def __repr__(self) -> str:
        """The call that rebuilds the set; options at their default are left out."""
        shown = []
        for option in sorted(fields(self), key=lambda option: bool(option.kw_only)):
            value = getattr(self, option.name)
            if option.default is MISSING or value != option.default:
                value = dict(value) if option.name == "sizes" else value
                text = f"float('{value}')" if value in _UNNAMED else repr(value)
                shown.append(f"{option.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    # the map ------------------------------------------------------------------------------------

    @final
    def forward(self, x: Tensor, **state: Tensor) -> Tensor:
        """y = f(x).

        Args:
            x: free tensor; float32, float64, complex where the set has a complex version. bfloat16
                and float16 are computed in float32 and rounded.
            state: what the map remembers, by the names in ``state_names``, as it came from
                ``right_inverse``; without it, its default. Its shape is checked. That a base is on
                the set is not, at the price of a product for each call; one that is not leads off
                it. (A layer's is put back when it was cast, loaded or averaged.)

        Returns:
            y on the set, in the dtype of x.

        Raises:
            ShapeError: the set is not defined in this shape.
            DtypeError: the set has no version in this dtype.
        """
        wide, known = self._inputs(x, state)
        with full_precision(x.device):
            y = self._forward(wide, **known).resolve_conj()
        return self._round(self._write(y, self._constrained_shape(tuple(x.shape))), x.dtype)

    __call__ = forward

    @final
    @torch.no_grad()
    def right_inverse(self, y: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The x, or (x, state), with f(x) = y to rounding.

        Args:
            y: of shape S, on the set.

        Returns:
            x in the dtype of y; state in at least float32. Contiguous, and new memory.

        Raises:
            ConstraintViolation: y is not on the set.
            ShapeError, DtypeError: as in :meth:`forward`.
        """
        self._check_dtype(y)
        shape = tuple(y.shape)
        self.check_shape(shape)
        if not bool(self.contains(y).all()):
            raise ConstraintViolation(self._complaint(y))
        with full_precision(y.device):
            value = self._read(raised(y))
            if y.dtype in _LOW:
                off = self._per_element(self._residual(value) > 0)
                value = torch.where(off, self._polish(value), value)
            found = self._right_inverse(value)
        x, state = found if isinstance(found, tuple) else (found, {})
        x = self._write_x(x, self.unconstrained_shape(shape), shape)
        x = x.to(y.dtype).resolve_conj().clone(memory_format=torch.contiguous_format)
        if not self.state_names:
            return x
        dtype = value.dtype
        return x, {
            k: self._write(v, shape).to(dtype).resolve_conj().contiguous() for k, v in state.items()
        }

    @final
    @torch.no_grad()
    def retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(x, state) with the same y = f(x) in better coordinates; what it was given by default."""
        wide, known = self._inputs(x, state)
        with full_precision(x.device):
            moved, after = self._retract(wide, **known)
        own = tuple(x.shape)
        shape = self._constrained_shape(own)
        after = {k: self._write(v, shape).contiguous() for k, v in after.items()}
        return self._write_x(moved, own, shape).to(x.dtype).contiguous(), after

    @final
    def log_abs_det_jacobian(self, x: Tensor, **state: Tensor) -> Tensor:
        """log |det df/dx|, one number for each element in y.

        Over the numbers of x that f reads, and as many of y: all entries, or the free ones of a
        set that fixes the others (a triangle of symmetric matrices, the entries that are not 0).
        Of orthonormal columns those of Q^H dy, Q a constant unitary matrix that begins with y: a
        density in x becomes one with respect to the uniform (Haar) measure.

        Raises:
            ConstraintError: f is not one-to-one onto an open set of these, so there is none.
        """
        wide, known = self._inputs(x, state)
        with full_precision(x.device):
            return self._log_abs_det_jacobian(wide, **known).to(x.real.dtype)

    @final
    def factors(self, x: Tensor, **state: Tensor) -> dict[str, Tensor]:
        """The matrices that f multiplies to y, by name: y is not factorised, x is read.

        By their names y is, to rounding: ``cholesky`` cholesky^H, with cholesky lower triangular;
        ``root`` root^H; ``q`` ``r``, with q orthonormal and r upper triangular; ``left``
        ``right``; ``q`` ``core`` q^H; or ``left`` ``core`` right^H, with left and right
        orthonormal. ``logdet`` is log |det y|, of batch shape. All can be differentiated in x.

        Args:
            x, state: as in :meth:`forward`; matrices come as ``view`` reads them.

        Raises:
            ConstraintError: f is no product.
        """
        wide, known = self._inputs(x, state)
        with full_precision(x.device):
            found = self._factorization(wide, **known)
        return {k: t.to(x.dtype if t.is_complex() else x.real.dtype) for k, t in found.items()}

    # the set ------------------------------------------------------------------------------------

    @final
    @torch.no_grad()
    def residual(self, y: Tensor) -> Tensor:
        """Distance of y from the set, of batch shape: 0 on it, infinite where y is not finite."""
        self._check_dtype(y)
        self.check_shape(tuple(y.shape))
        with full_precision(y.device):
            value = self._read(raised(y))
            finite = torch.isfinite(value)
            if self.event_dim:
                finite = finite.flatten(-self.event_dim).all(-1)
            value = torch.where(self._per_element(finite), value, torch.zeros_like(value))
            found = self._residual(value)
        return torch.where(finite, found, torch.full_like(found, torch.inf))

    @final
    def tolerance(self, y: Tensor) -> float:
        """The largest residual that is rounding, for a y of this dtype and size."""
        self._check_dtype(y)
        return float(self._tolerance(self._matrix_shape(tuple(y.shape)), y.dtype))

    @final
    def contains(self, y: Tensor, atol: float | None = None) -> Tensor:
        """Whether the residual is at most ``atol`` (default: ``tolerance(y)``), of batch shape."""
        if atol is not None and not isinstance(atol, int | float | Tensor):
            raise OptionError(f"atol={atol!r}: expected a number, such as 1e-6, or None.")
        return self.residual(y) <= (self.tolerance(y) if atol is None else atol)

    @final
    @torch.no_grad()
    def project(self, y: Tensor) -> Tensor:
        """The nearest point of the set, or the choice documented at the set (no derivative).

        Raises:
            ConstraintViolation: y is not finite.
        """
        self._check_dtype(y)
        self.check_shape(tuple(y.shape))
        if not bool(torch.isfinite(y).all()):
            raise ConstraintViolation(self._complaint(y))
        with full_precision(y.device):
            found = self._project(self._read(raised(y)))
        found = self._write(found, tuple(y.shape))
        return self._round(found, y.dtype).resolve_conj().contiguous()

    @final
    @torch.no_grad()
    def sample(
        self,
        shape: Shape,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A random y of this shape from the canonical distribution of the set."""
        self.check_shape(shape)
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ShapeError(
                f"{self!r} got the shape {shape}; expected lengths of axes, such as 3."
            )
        dtype = dtype or torch.get_default_dtype()
        if not isinstance(dtype, torch.dtype):
            raise DtypeError(f"dtype={dtype!r}: expected a dtype of torch, such as torch.float64.")
        if not isinstance(generator, torch.Generator | None):
            raise OptionError(
                f"generator={generator!r}: expected a torch.Generator. For a seed write "
                "`torch.Generator().manual_seed(0)`."
            )
        wide = compute_dtype(dtype)
        model = torch.empty(0, dtype=wide, device=device)
        self._check_dtype(model)
        found = self._sample(self._matrix_shape(shape), model, generator)
        found = self._write(found, tuple(shape))
        return self._round(found, dtype).resolve_conj().contiguous()

    @final
    def check_shape(self, shape: Shape | int) -> None:
        """Raise ShapeError when the set is not defined in this shape of y."""
        if not isinstance(shape, tuple | list):
            raise ShapeError(f"{self!r} got the shape {shape}; expected a tuple, such as (3, 3).")
        shape = tuple(shape)
        matrix = self._matrix_shape(shape)
        if len(matrix) < self.event_dim:
            kind = {1: "vectors: at least one axis", 2: "matrices: at least two axes"}
            expected = kind.get(self.event_dim, f"at least {self.event_dim} axes")
            raise ShapeError(
                f"{self!r} got shape {shape}; expected {expected}. Give it a parameter "
                "with more axes, or use a set of numbers such as Interval."
            )
        if (reason := self._check(matrix)) is not None:
            raise ShapeError(f"{self!r} got shape {shape}; {reason}")

    @final
    def unconstrained_shape(self, shape: Shape) -> Shape:
        """The shape of x for a y of this shape."""
        self.check_shape(shape)
        return self._unconstrained_shape(tuple(shape))

    @final
    def dimension(self, shape: Shape, dtype: torch.dtype | None = None) -> int:
        """Real dimension of the set for a whole y of this shape (all its elements together)."""
        self.check_shape(shape)
        if not isinstance(dtype, torch.dtype | None):
            raise DtypeError(f"dtype={dtype!r}: expected a dtype of torch, such as torch.float64.")
        matrix = self._matrix_shape(tuple(shape))
        return self._whole_dimension(matrix, dtype is not None and dtype.is_complex)

    # published properties -----------------------------------------------------------------------

    @property
    @abstractmethod
    def onto(self) -> str:
        """What f reaches: "the whole set", "the component of the start", ..."""

    @property
    @abstractmethod
    def one_to_one(self) -> bool:
        """Whether f is injective in the coordinates that it reads, for a given state."""

    @property
    @abstractmethod
    def smooth(self) -> bool:
        """Whether f has derivatives of every order everywhere."""

    @property
    @abstractmethod
    def decay_target(self) -> str:
        """f(0), to which weight decay on x pulls y."""

    # hooks --------------------------------------------------------------------------------------

    @abstractmethod
    def _forward(self, x: Tensor, **state: Tensor) -> Tensor:
        """f; traceable: no control flow that depends on values."""

    @abstractmethod
    def _right_inverse(self, y: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """x or (x, state) for a y that passed ``contains``; may return a wider dtype."""

    @abstractmethod
    def _residual(self, y: Tensor) -> Tensor:
        """Distance of a finite y from the set, of batch shape."""

    @abstractmethod
    def _project(self, y: Tensor) -> Tensor:
        """A point of the set near a finite y; y itself, to rounding, when it is on the set."""

    @abstractmethod
    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """A random point in the dtype and on the device of ``like``."""

    @abstractmethod
    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        """Real dimension of the set for one element, ``shape`` without batch axes."""

    def _whole_dimension(self, shape: Shape, is_complex: bool) -> int:
        """Of all elements together; to be replaced where they differ, as with a mask."""
        split = len(shape) - self.event_dim
        return math.prod(shape[:split]) * self._dimension(shape[split:], is_complex)

    def _polish(self, y: Tensor) -> Tensor:
        """The point of the set that a y off it by the rounding of half precision stands for."""
        return self._project(y)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """y in the dtype of x: the place to keep a bound that rounding to it would cross."""
        return y.to(dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 8 * torch.finfo(dtype).eps

    def _check(self, shape: Shape) -> str | None:
        """Expectation and remedy when the set is not defined in this shape, else None."""
        return None

    def _check_options(self) -> None:  # noqa: B027  (nothing to check by default)
        """Raise OptionError for options with which the set does not exist."""

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, state

    def _log_abs_det_jacobian(self, x: Tensor, **state: Tensor) -> Tensor:
        raise ConstraintError(
            f"{self!r} has no log |det J|: its map is not one-to-one onto an open set. Maps that "
            'have one: Interval(a, b), Positive(), PositiveDefinite(), Orthogonal(map="cayley").'
        )

    def _factorization(self, x: Tensor, **state: Tensor) -> dict[str, Tensor]:
        raise ConstraintError(
            f"{self!r} has no factors: its map is no product of matrices. Sets that have them: "
            "PositiveDefinite(), Correlation(), Invertible(), LowRank(r)."
        )

    def _unconstrained_shape(self, shape: Shape) -> Shape:
        return shape

    def _constrained_shape(self, shape: Shape) -> Shape:
        """The shape of y for an x of this shape: undoes ``_unconstrained_shape``."""
        return shape

    # checks and views ---------------------------------------------------------------------------

    def _inputs(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """x and state as matrices in the dtype of the computation."""
        self._check_dtype(x)
        shape = self._constrained_shape(tuple(x.shape))
        self.check_shape(shape)
        for name, value in state.items():
            if name not in self.state_names:
                names = ", ".join(self.state_names) or "none"
                raise ConstraintError(f"{self!r} has no state {name!r}; its state: {names}.")
            if not isinstance(value, Tensor):
                raise DtypeError(
                    f"state {name!r} is {type(value).__name__}; expected a tensor. Take x and "
                    "state from the same right_inverse."
                )
            if tuple(value.shape[-self.event_dim :]) != shape[-self.event_dim :]:
                raise ShapeError(
                    f"state {name!r} has shape {tuple(value.shape)}; expected the shape of y, "
                    f"{shape}. Take x and state from the same right_inverse."
                )
        # In the gradient of 1 x no lazy conjugation is left, which torch's optimisers refuse.
        wide = 1 * x if x.is_complex() else raised(x)
        known = {k: self._read(v.to(wide.dtype)) for k, v in state.items()}
        return (self._read(wide) if self._reads_x(tuple(x.shape), shape) else wide), known

    def _check_dtype(self, t: Tensor) -> None:
        if not isinstance(t, Tensor):
            raise DtypeError(
                f"{self!r} got {type(t).__name__}; expected a tensor. Wrap it: `torch.tensor(...)`."
            )
        if not (t.is_floating_point() or (t.is_complex() and self.has_complex)):
            kinds = "floating point or complex" if self.has_complex else "real floating point"
            raise DtypeError(
                f"{self!r} got {t.dtype}; expected a {kinds} tensor. {self.dtype_remedy}"
            )
        known = _COMPLEX if t.is_complex() else _REAL
        if t.dtype not in known:  # torch has next to no operations for what is shorter
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
            raise DtypeError(f"{self!r} got {t.dtype}; expected one of {names}. Cast it first.")

    def _complaint(self, y: Tensor) -> str:
        """Value, expectation and remedy for a y that is off the set."""
        if bad := int((~torch.isfinite(y)).sum()):
            return (
                f"{bad} of {y.numel()} entries are NaN or infinite: no point of {self!r} is "
                f"nearest. Replace them, as torch.nan_to_num does, then project: "
                f"`{self!r}.project(value)`."
            )
        worst = float(self.residual(y).max())
        rounded = ""
        for dtype in _SHORTER.get(y.dtype, ()):
            if bool(self.contains(y.to(dtype)).all()):
                name = str(dtype).removeprefix("torch.")
                rounded = f" It is within the rounding of {name}: was it saved in that precision?"
                break
        return (
            f"the value is {worst:.3g} away from {self!r}, where at most {self.tolerance(y):.3g} "
            f"is rounding.{rounded} Project it first: `{self!r}.project(value)`."
        )

    def _per_element(self, flags: Tensor) -> Tensor:
        """A tensor of batch shape made to broadcast against y."""
        return flags.reshape(flags.shape + (1,) * self.event_dim)

    def _make_layout(self) -> Layout | None:
        """How a tensor is read; None where its last ``event_dim`` axes are the element."""
        return None

    def _matrix_shape(self, shape: Shape) -> Shape:
        return shape if self._layout is None else self._layout.matrix_shape(shape)

    def _read(self, t: Tensor) -> Tensor:
        return t if self._layout is None else self._layout.read(t)

    def _write(self, t: Tensor, shape: Shape) -> Tensor:
        return t if self._layout is None else self._layout.write(t, shape)

    def _reads_x(self, own: Shape, shape: Shape) -> bool:
        """Whether x of shape ``own`` is read as y of shape ``shape`` is; hooks get it raw if not.

        Axes can be found in an x of other lengths; a pattern fits y only.
        """
        return own == shape or not isinstance(self._layout, View)

    def _write_x(self, x: Tensor, own: Shape, shape: Shape) -> Tensor:
        return self._write(x, own) if self._reads_x(own, shape) else x


# What no subclass may replace: the public methods carry the checks.
_FINAL = {
    "__call__", "check_shape", "contains", "dimension", "factors", "forward",
    "log_abs_det_jacobian", "project", "residual", "retract", "right_inverse", "sample",
    "tolerance", "unconstrained_shape",
}  # fmt: skip
