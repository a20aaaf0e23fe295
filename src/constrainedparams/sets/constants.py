"""A tensor that belongs to the definition of a set: held, compared, hashed and printed by value."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ..errors import DtypeError, OptionError
from . import baked

__all__ = ["Constant", "as_constant", "as_real", "as_tensor", "broadcasts"]


_SHOWN = 16  # numbers in repr; of more, what tells them from others


class Constant:
    """The value of a tensor, list or array, whatever its dtype and device were.

    Numbers are kept in double precision on the CPU. A few are printed as nested lists, so that
    ``repr`` rebuilds the same value; many by shape, sizes and digest. A set's hook gets it for a
    device and dtype with :meth:`like`.
    """

    def __init__(self, value: Any) -> None:
        if isinstance(value, Tensor) and value.requires_grad:
            raise OptionError(
                "a constant of a set is a tensor that requires grad; a set is a value and does not "
                "learn. Give `value.detach()`, or use an nn.Module that has it as a parameter."
            )
        try:
            given = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
            tensor = given.detach().cpu()
        except (TypeError, ValueError) as error:  # rows of several lengths, words
            raise OptionError(f"{value!r}: expected numbers in rows of equal length.") from error
        if isinstance(value, list) and tensor.is_floating_point():
            tensor = torch.tensor(
                value, dtype=torch.float64, device="cpu"
            )  # not through the default dtype
        if tensor.is_floating_point() or tensor.is_complex():
            # + 0 turns -0.0 into 0.0: equal values get equal hashes.
            wide = torch.complex128 if tensor.is_complex() else torch.float64
            tensor = tensor.to(wide) + 0
        self.value = tensor.clone().contiguous()
        kind = f"{tuple(tensor.shape)} {tensor.dtype} ".encode()
        self._digest = hashlib.sha256(kind + self.value.numpy().tobytes()).hexdigest()
        self._hash = hash(self._digest)
        self._numbers = baked.numbers_of(self._digest, self.value.numpy())
        self._made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The constant on the device and in the dtype of ``x``; made once for each.

        Raises:
            DtypeError: the constant is complex and ``x`` is not.
        """
        if self.value.is_complex() and not x.is_complex():
            raise DtypeError(
                f"the set has a complex constant and got {x.dtype}; expected a complex tensor. "
                "Cast it first, for example with `.to(torch.complex64)`, or take a real constant."
            )
        if torch.compiler.is_dynamo_compiling():
            opaque: Tensor = baked.tensor(self._digest, x)
            return opaque
        if torch.compiler.is_compiling():  # from numbers: tracing refuses tensors it has not met
            return torch.tensor(self._numbers.entries, dtype=x.dtype, device=x.device)
        key = (x.device, x.dtype)
        if key not in self._made:
            # A fresh thread has no torch.func transform, no dispatch mode and no inference mode:
            # what is made there is a plain tensor, which may be kept.
            with ThreadPoolExecutor(1) as clean:
                self._made[key] = clean.submit(lambda: self.value.to(*key)).result()
        return self._made[key]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        same = self.value.dtype == other.value.dtype and self.value.shape == other.value.shape
        return same and torch.equal(self.value, other.value)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        if self.value.numel() <= _SHOWN:
            return repr(self._numbers.entries)
        if self.value.dtype == torch.bool:
            what = f"{int(self.value.sum())} of {self.value.numel()} true"
        else:
            what = f"sizes {self.value.abs().min():.3g} to {self.value.abs().max():.3g}"
        shape = tuple(self.value.shape)
        return f"tensor(shape={shape}, {what}, sha256 {self._digest[:8]})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Constant":
        return self


def as_constant(value: Any) -> Any:
    """Tensors, arrays and lists as a :class:`Constant`; a number of one element as a number."""
    if isinstance(value, Constant | str | bool | int | float | complex) or value is None:
        return value
    if not (isinstance(value, Tensor | list) or hasattr(value, "__array__")):
        return value
    constant = Constant(value)
    return constant.value.item() if constant.value.ndim == 0 else constant


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """An option that is a number or a :class:`Constant` as a tensor, like ``like`` where given."""
    if isinstance(value, Constant):
        return value.value if like is None else value.like(like)
    if not isinstance(value, int | float | complex):
        raise OptionError(f"{value!r} is {type(value).__name__}; expected a number or a tensor.")
    if isinstance(value, complex):
        return as_tensor(Constant(value), like)
    if like is None:
        return torch.tensor(value, dtype=torch.float64, device="cpu")
    return torch.full((), value, dtype=like.dtype, device=like.device)


def as_real(value: Any, like: Tensor | None = None) -> Tensor:
    """As :func:`as_tensor`, of a bound."""
    tensor = as_tensor(value, like)
    if tensor.is_complex():
        raise OptionError(f"{value!r} is complex; expected a real bound: complex has no order.")
    return tensor


def broadcasts(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether the option broadcasts to ``shape`` without enlarging it."""
    own = tuple(value.value.shape) if isinstance(value, Constant) else ()
    pairs = zip(own[::-1], shape[::-1], strict=False)
    return len(own) <= len(shape) and all(m in (1, n) for m, n in pairs)
