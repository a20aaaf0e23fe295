"""Registration over a whole model, by pattern: all of it or nothing."""

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..attach.classes import slots_of
from ..attach.guesses import kind, nearest, refuse_no_bool
from ..attach.registration import Prepared, carry_out, prepare
from ..attach.validation import inside_wrappers
from ..core.tensors import function_name, raw_name
from ..errors import ConstraintError, RegistrationError
from .table import Table


@dataclass(frozen=True)
class Match:
    """One parameter that a pattern matched, and how far registration moves its value."""

    function: Any
    shape: tuple[int, ...]
    moved: float | None
    moved_percent: float | None
    pattern: str


@dataclass(frozen=True)
class _Place:
    """A parameter as its module holds it; the module may be reached by several names."""

    name: str
    module: nn.Module
    attribute: str
    parameter: nn.Parameter

    @property
    def key(self) -> tuple[int, str]:
        return id(self.module), self.attribute


def register_constrained_parameters(
    model: nn.Module,
    patterns: Mapping[str, Any],
    update: str = "auto",
    *,
    project: bool = True,
    dry_run: bool = False,
) -> Table[Match]:
    """Constrain every parameter of ``model`` whose qualified name matches a pattern.

    All matches are tried before the first is registered: after an error the model is as it was. A
    match that has this constraint already is left alone, so a notebook cell may run twice.

    Args:
        model: the tree of modules.
        patterns: from names as ``named_parameters`` gives them, or patterns of :mod:`fnmatch`
            (``*`` also matches dots), to sets or functions. One object serves all matches; an
            ``nn.Module`` shares its parameters among them. What a function owns is not matched.
        update, project: as in :func:`register_constrained_parameter`.
        dry_run: only say what would happen.

    Returns:
        A dict from qualified names to rows with ``function``, ``shape``, ``pattern`` and how far
        the value moved onto the set, ``moved`` (Frobenius norm) and ``moved_percent`` (None where
        there is no right inverse, so that the value becomes x). Printed, it is a table.

    Raises:
        RegistrationError: a pattern that matches nothing, a parameter matched by two patterns or
            shared by two modules, and what :func:`register_constrained_parameter` raises.
        ConstraintViolation, FunctionError, ShapeError, DtypeError: as there.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Interval, Orthogonal, register_constrained_parameters
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.copy_(2 * torch.eye(2)), model[2].weight.copy_(torch.eye(2))
        >>> patterns = {"*.weight": Orthogonal(), "2.bias": Interval(-1.0, 1.0)}
        >>> register_constrained_parameters(model, patterns, dry_run=True)
        name      function                         shape   moved  moved percent  pattern
        --------  -------------------------------  ------  -----  -------------  --------
        0.weight  Orthogonal()                     (2, 2)  1.41   50             *.weight
        2.weight  Orthogonal()                     (2, 2)  0      0              *.weight
        2.bias    Interval(lower=-1.0, upper=1.0)  (2,)    0      0              2.bias
        >>> list(register_constrained_parameters(model, patterns))
        ['0.weight', '2.weight', '2.bias']
    """
    refuse_no_bool("dry_run", dry_run)
    chosen = _choose(model, patterns)
    wrapped = inside_wrappers()
    prepared = [_prepare(p, patterns[w], update, project, wrapped) for p, w in chosen.items()]
    found: Table[Match] = Table()
    for (place, pattern), one in zip(chosen.items(), prepared, strict=True):
        slot = slots_of(place.module)[place.attribute] if one is None else one.slot
        moved, percent = slot.moved or (None, None)
        found[place.name] = Match(slot.function, slot.shape, moved, percent, pattern)
    for place, one in zip(chosen, prepared, strict=True):
        if one is not None and not dry_run:
            carry_out(one, place.name)
    return found


# what is meant ----------------------------------------------------------------------------------


def _places(module: nn.Module, prefix: str = "", above: frozenset[int] = frozenset()) -> Iterator:
    """Parameters by every name they have; constrained ones by the name of y."""
    slots = slots_of(module)
    plain_names = {raw_name(name): name for name in slots}
    for key, parameter in module._parameters.items():
        if parameter is not None:
            name = plain_names.get(key, key)
            yield _Place(prefix + name, module, name, parameter)
    functions = {function_name(name) for name in slots}
    above = above | {id(module)}  # a module that holds its parent would be walked for ever
    for key, child in module._modules.items():
        if child is not None and key not in functions and id(child) not in above:
            yield from _places(child, f"{prefix}{key}.", above)


def _choose(model: Any, patterns: Any) -> dict[_Place, str]:
    """The pattern of every parameter that is matched, in the order of the model."""
    if not isinstance(model, nn.Module) or not isinstance(patterns, Mapping):
        raise RegistrationError(
            f"got {type(model).__name__} and {type(patterns).__name__}; expected an nn.Module and "
            'a dict from patterns to sets or functions, such as {"encoder.*.weight": Orthogonal()}.'
        )
    known: dict[str, _Place] = {place.name: place for place in _places(model)}
    wanted: dict[tuple[int, str], str] = {}
    for pattern in patterns:
        for place in _matched(model, pattern, known):
            earlier = wanted.setdefault(place.key, pattern)
            if earlier != pattern:
                raise RegistrationError(
                    f"`{place.name}` is matched by {earlier!r} and by {pattern!r}; each parameter "
                    "takes one constraint. Narrow one of the patterns."
                )
    owners: dict[int, dict[tuple[int, str], str]] = {}
    for place in known.values():
        owners.setdefault(id(place.parameter), {}).setdefault(place.key, place.name)
    chosen: dict[_Place, str] = {}
    for place in known.values():
        pattern = wanted.pop(place.key, None)
        if pattern is not None:
            _refuse_shared(place, list(owners[id(place.parameter)].values()))
            chosen[place] = pattern
    return chosen


def _matched(model: nn.Module, pattern: Any, known: dict[str, _Place]) -> list[_Place]:
    """What ``pattern`` matches; an exact name needs no search, so that many of them are cheap."""
    if pattern in known:
        return [known[pattern]]
    if not isinstance(pattern, str):
        raise RegistrationError(
            f"the pattern {pattern!r} is {type(pattern).__name__}; expected the qualified name of "
            'a parameter as a str, such as "encoder.0.weight" or "encoder.*.weight".'
        )
    matches = re.compile(fnmatch.translate(pattern)).match
    found = [place for name, place in known.items() if matches(name)]
    if not found:
        first = ", ".join(list(known)[:5]) + (", ..." if len(known) > 5 else "")
        raise RegistrationError(
            f"the pattern {pattern!r} matches no parameter of {kind(model)}; its "
            f"{len(known)} parameters: {first or 'none'}." + nearest(pattern, known)
        )
    return found


def _refuse_shared(place: _Place, names: list[str]) -> None:
    """x in one module and y in another would not be tied any more."""
    if len(names) > 1 and place.attribute not in slots_of(place.module):
        raise RegistrationError(
            f"{' and '.join(f'`{name}`' for name in names)} are one parameter; with a constraint "
            f"on `{place.name}` alone the others would hold x in place of y. Leave it out of the "
            "patterns, register it on one module with `register_constrained_parameter`, then tie "
            "the others to that one with `share_constrained_parameter`."
        )


# trying and doing -------------------------------------------------------------------------------


def _prepare(
    place: _Place, function: Any, update: str, project: bool, wrapped: dict[int, str]
) -> Prepared | None:
    """One registration, tried but not carried out; None when it is there already."""
    try:
        return prepare(place.module, place.attribute, function, update, project, wrapped)
    except ConstraintError as error:
        raise type(error)(f"{place.name}: {error} Nothing was registered.") from error
    except Exception as error:
        error.add_note(f"raised while `{place.name}` was tried; nothing was registered")
        raise
