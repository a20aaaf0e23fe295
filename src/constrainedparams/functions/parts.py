"""What an nn.Module f is made of."""

from typing import Any

from torch import Tensor, nn

from .call import places_of


class Parts:
    """The modules and tensors of f, and whether each module trains.

    Each is kept with the dict that it was found in: a replaced tensor or submodule is another
    object in the same dict, and asking costs no walk through f.
    """

    __slots__ = ("modules", "parameters", "places", "tensors")

    def __init__(self, holder: dict[str, Any], key: str, function: nn.Module):
        self.modules: list[tuple[dict[str, Any], str, nn.Module, bool, int]] = []
        self.tensors: list[tuple[dict[str, Any], str, Tensor]] = []
        self._descend(holder, key, function)
        self.places = places_of(function)
        self.parameters = tuple({id(p): p for _, _, p in self.places}.values())

    def _descend(self, holder: dict[str, Any], key: str, part: nn.Module) -> None:
        self.modules.append((holder, key, part, part.training, _size(part)))
        for held in (part._parameters, part._buffers):
            tensors: Any = held
            self.tensors += [(tensors, k, t) for k, t in tensors.items() if t is not None]
        for name, child in part._modules.items():
            if child is not None:
                self._descend(part._modules, name, child)

    def same(self) -> bool:
        """Whether the modules are, and are as many, and train or not as they did."""
        for holder, key, part, training, size in self.modules:
            if holder.get(key) is not part or part.training is not training or _size(part) != size:
                return False
        return True


def _size(part: nn.Module) -> int:
    return len(part._parameters) + len(part._buffers) + len(part._modules)
