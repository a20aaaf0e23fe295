"""What somebody who gave wrong arguments probably meant: the ends of error messages."""

import difflib
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core import private
from ..errors import RegistrationError
from ..sets.contract import Constraint
from .classes import base_of

CALL = "register_constrained_parameter"


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean ...?" for the names nearest to ``word``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def module_for(given: Any) -> str:
    """What to give in place of something that is no module."""
    whole = "For a tensor without a module use `Parametrized(tensor, function)`."
    if not isinstance(given, Tensor):
        return whole
    return (
        "For the weight of a layer give the layer and the name: "
        f'`{CALL}(layer, "weight", function)`. {whole}'
    )


def refuse_no_module(given: Any, caller: str) -> None:
    """What every tool asks of a model or a layer that it is given."""
    if isinstance(given, nn.Module):
        return
    remedy = ""
    if isinstance(given, Tensor):
        remedy = " Give the module that holds the tensor."
    elif isinstance(given, list | tuple) and all(isinstance(m, nn.Module) for m in given):
        remedy = " Give the model that holds them all, or `nn.ModuleList(modules)`."
    raise RegistrationError(f"{caller} got {type(given).__name__}; expected an nn.Module.{remedy}")


def refuse_no_bool(name: str, given: Any) -> None:
    """A word such as "no" is true."""
    if not isinstance(given, bool):
        raise RegistrationError(f"{name}={given!r}: expected True or False.")


def function_for(name: Any, given: Any) -> str:
    """What to give in place of something that cannot be called; ``given`` said shortly first."""
    expected = "expected a set such as `Orthogonal()`, an nn.Module or a function of one tensor."
    if isinstance(given, Tensor):
        return (
            f"a tensor of shape {tuple(given.shape)}; {expected} Give the function itself, such as "
            "`torch.tanh`, not what it returns."
        )
    text = f"{given!r} ({type(given).__name__}), which cannot be called; {expected}"
    if not isinstance(given, str):
        return text
    if callable(name):
        return f'{text} Name first, then function: `{CALL}(module, "{given}", {name!r})`.'
    folded = {_folded(cls.__name__): cls.__name__ for cls in _subclasses(Constraint)}
    close = difflib.get_close_matches(_folded(given), folded, n=1, cutoff=0.6)
    return f"{text} Did you mean `{folded[close[0]]}()`?" if close else text


def parameter_for(module: nn.Module, name: Any) -> str:
    """The end of a sentence that begins with the name of what is no parameter."""
    for wrapper in ("module", "_orig_mod"):
        if isinstance(getattr(module, wrapper, None), nn.Module):
            return (
                f"belongs to the module inside the wrapper, `module.{wrapper}`. Register on that "
                "one before wrapping it."
            )
    if parametrize.is_parametrized(module, name):
        return (
            "is parametrized by torch. First "
            f'`torch.nn.utils.parametrize.remove_parametrizations(module, "{name}")`.'
        )
    if isinstance(value := getattr(module, name, None), nn.Module):
        known = [k for k, p in value._parameters.items() if p is not None]
        return f"is a {kind(value)}, no nn.Parameter." + (_write(name, known[0]) if known else "")
    if name not in module._parameters and hasattr(module, name):
        sort = "buffer" if name in module._buffers else type(value).__name__
        return f"is a {sort}, no nn.Parameter. Make it one: `module.{name} = nn.Parameter(...)`."
    known = [k for k, p in module._parameters.items() if p is not None]
    owner, _, last = name.rpartition(".")
    owners = [path for path, m in module.named_modules() if path and last in m._parameters]
    text = f"does not exist or is None; parameters here: {', '.join(known) or 'none'}."
    if owner in owners:
        return f"belongs to a module below.{_write(owner, last)}"
    return text + (nearest(name, known) or (_write(owners[0], last) if owners else ""))


def view_for(module: nn.Module, parameter: Tensor) -> str:
    """The pattern that reads the weight of a convolution as one matrix."""
    first, second = ("i", "o") if isinstance(module, private.transposed) else ("o", "i")
    rest = f"{second} {' '.join('dhw'[-(parameter.ndim - 2) :])}"
    return f"{first} {rest} -> {first} ({rest})"


def kind(module: nn.Module) -> str:
    """The name of the class that the user knows."""
    return base_of(module).__name__


def _write(path: str, name: str) -> str:
    steps = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))
    return f' Write `{CALL}(module{steps}, "{name}", ...)`.'


def _folded(name: str) -> str:
    return name.replace("_", "").replace(" ", "").removesuffix("()").casefold()


def _subclasses(cls: type) -> set[type]:
    below: set[type] = set(cls.__subclasses__())
    return below.union(*map(_subclasses, below)) if below else below
