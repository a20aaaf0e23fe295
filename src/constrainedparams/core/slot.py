"""One constrained parameter: the last evaluation of f, and when it may be handed out again."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CapturedTensor, ConstraintError, PendingGradients
from ..functions.call import call, parameters_of
from ..functions.captured import captured
from ..sets.contract import Constraint, compute_dtype
from . import optimizers, private, verified, writes
from .isolated import isolated
from .key import Companions, Watch, versioned
from .pullback import Graph, Pullback
from .tensors import SLOTS, Constrained, as_constrained, function_name, guard, raw_name, state_of

_KEPT = ("name", "function", "mode", "state_names", "shape", "tie", "batch", "moved")
MODES = ("auto", "manual", "verified")


class Record:
    """One evaluation: the key it holds for, the y handed out, the private graph (or none)."""

    x: Watch
    companions: Companions
    graph: Any  # a Graph, or what is one for many slots
    place: int  # of y among the outputs of the graph
    value: Tensor | None  # beside y, where f may be random: what a refused write must not change
    home: weakref.ref[nn.Module]
    node: Any
    snapshot: verified.Snapshot | None
    out: tuple[Constrained, Tensor] | None  # y and a plain alias, three times as fast to ask
    held: "weakref.ref[Constrained]"  # y, also after ``loosen``
    y_version: int

    def __init__(self, x: Tensor, mode: str):
        self.x = Watch(x)
        self.snapshot = verified.Snapshot(x) if mode == "verified" else None
        self.graph = self.value = None
        self.place = 0

    def y(self) -> Constrained | None:
        """What was handed out, while somebody or this record holds it."""
        out = self.out
        return self.held() if out is None else out[0]

    def written(self) -> bool:
        """Whether somebody wrote into y."""
        y = self.held() if self.out is None else self.out[1]
        return y is not None and y._version != self.y_version

    def depends_on(self, held: dict[int, Any]) -> bool:
        """Whether a tensor with one of these ids goes into y."""
        ids = self.companions.ids  # ``isdisjoint`` of keys walks the shorter of the two
        return id(self.x.tensor) in held or not held.keys().isdisjoint(ids)

    def moved(self) -> bool:
        """Whether an optimiser stepped what y is a function of."""
        return self.x.moved() or any(watch.moved() for _, _, watch in self.companions.watches)

    def loosen(self) -> None:
        """After a backward, a y beside a kept value lives as long as others hold it.

        The next read makes another y of the same value. A y that somebody marked is kept.
        """
        y = None if self.value is None else self.y()
        marked = y is None or y.retains_grad or y._backward_hooks or len(vars(y)) > 1
        if not marked and not self.written():
            self.out = None


@dataclass
class Counts:
    """What ``statistics`` shows of one parameter."""

    evaluations: int = 0
    pullbacks: int = 0
    hits: int = 0
    reason: str = "first read"


class Slot:
    """Where the tensor of one name lives. Holds no module: copies never share a value."""

    number = -1  # what compiled graphs call f, see attach/tracing
    batch: Any = None  # what evaluates f for this and other slots at once, see attach/batch

    def __init__(
        self,
        name: str,
        function: Any,
        mode: str,
        state_names: tuple[str, ...] = (),
        shape: tuple[int, ...] = (),
    ):
        self.name = name
        self.shape = shape
        self.function = function
        self.mode = mode
        self.state_names = state_names
        self.moved: tuple[float, float] | None = None  # by registration: distance, in percent
        self.tie: Any = None  # what keeps x one tensor when modules share this slot
        self._fresh()

    def _fresh(self) -> None:
        self.record: Record | None = None
        self.companions: Companions | None = None  # the last that were seen
        self.trusting = self.mode == "manual"
        self.former: list[tuple[weakref.ref[Any], int]] = []  # y's of the past that are still held
        self.override: list[Tensor] = []
        self.deferring = 0
        self.counts = Counts()
        self.failure: AttributeError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fresh()

    # reading ------------------------------------------------------------------------------------

    def read(self, module: nn.Module) -> Tensor:
        """y: the tensor handed out before when nothing it depends on has changed, else f again."""
        if self.override:
            return self.override[-1]
        if private.transforming():
            return self.inline(module)
        self.settle(module)
        x = getattr(module, raw_name(self.name_in(module)))
        if x is None:
            raise ConstraintError(
                f"{self.where(module)}: `{raw_name(self.name_in(module))}` was set to None. Set an "
                "nn.Parameter, or use `remove_constrained_parameter` instead."
            )
        record = self.record
        reason = self.counts.reason if record is None else self.changed(module, x, record)
        if record is not None and not reason:
            self.counts.hits += 1
            return self.again(module, record)
        return self.evaluate(module, x, reason)

    def inline(self, module: nn.Module) -> Tensor:
        """f on the x that is there, cache untouched: for tracers, compilers and transforms."""
        function = self.function_of(module)
        x = getattr(module, raw_name(self.name_in(module)))
        low = compute_dtype(x.dtype) != x.dtype  # else f is called as it is, which compiles
        own = parameters_of(function) if low else []
        return call(function, x, self.state_in(module), own)

    def name_in(self, module: nn.Module) -> str:
        """The name of y in ``module``: modules that share a slot may call it differently."""
        slots = module.__dict__.get(SLOTS, {})
        if slots.get(self.name) is self:
            return self.name
        return next((name for name, slot in slots.items() if slot is self), self.name)

    def state_in(self, module: nn.Module) -> dict[str, Tensor]:
        """What the map remembers, from the buffers of ``module``."""
        return state_of(module, self.name_in(module), self.state_names)

    def function_of(self, module: nn.Module) -> Any:
        """An nn.Module f is a submodule, so that replicas and copies use their own."""
        if isinstance(self.function, nn.Module):
            return module._modules.get(function_name(self.name_in(module)), self.function)
        return self.function

    def changed(self, module: nn.Module, x: Tensor, record: Record) -> str:
        """Why ``record`` cannot be handed out, or "" when it can."""
        if record.graph is None and self.wants_graph(module, self.inputs(module, x)):
            return "first read with grad"
        if self.mode == "manual":
            return "" if record.x.tensor is x else "x is another object"
        if not versioned(x) or not record.x.same(x):
            return "x changed"
        if not record.companions.same():
            return "map state or parameters of f changed"
        if record.snapshot is not None and not record.snapshot.same(x):
            return "x changed without a trace"
        return ""

    def inputs(self, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """What the derivative of f is taken by: x, then the parameters of an nn.Module f."""
        return (x, *parameters_of(self.function_of(module)))

    def wants_graph(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
        """All but eval() without grad and wholly frozen parameters are evaluated with a graph."""
        trains = any(t.requires_grad for t in inputs)
        return trains and (module.training or torch.is_grad_enabled())

    # evaluating ---------------------------------------------------------------------------------

    def evaluate(self, module: nn.Module, x: Tensor, reason: str) -> Tensor:
        """Run f once, keep its graph, hand out y as the output of one node over it."""
        inputs = self.inputs(module, self.whole(module, x))
        for parameter in inputs:
            guard(parameter)
        if not versioned(x):
            return self.inline(module)
        record = None if self.batch is None else self.batch.evaluate(self, module, x, reason)
        if record is None:
            self.drop(reason)
            self.keep(record := self.build(module, inputs), reason)
        return self.again(module, record)  # not self.record, which another thread may drop

    def keep(self, record: Record, reason: str) -> None:
        """``record`` is what holds from now on."""
        self.counts.evaluations += 1
        self.counts.reason = reason
        self.record = record
        optimizers.follow(self)

    def whole(self, module: nn.Module, x: Tensor) -> Tensor:
        """x, refused where it is the part of a tensor that other processes hold parts of."""
        if type(x).__name__ == "DTensor":
            raise ConstraintError(
                f"{self.where(module)} was read while its parameter is sharded (a DTensor): f "
                "needs the whole tensor. Read it inside forward, or call `module.unshard()` first."
            )
        return x

    def build(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Record:
        """Evaluate f on leaves of its own. x's version is read before f, f's buffers' after."""
        x, function = inputs[0], self.function_of(module)
        record = Record(x, self.mode)
        with isolated(x.device), torch.set_grad_enabled(self.wants_graph(module, inputs)):
            value, record.graph = self.trace(module, inputs, self.state_in(module))
            again = record.graph is None or isinstance(function, Constraint)
            record.value = None if again else value.detach()
            self.hand_out(record, module, self.output(record, inputs, value))
        record.companions = self.watched(module)
        return record

    def watched(self, module: nn.Module) -> Companions:
        """What f depends on besides x, as it is now."""
        if self.companions is None or not self.companions.same():
            name, function = self.name_in(module), self.function_of(module)
            self.companions = Companions(module, name, self.state_names, function)
        return self.companions

    def output(self, record: Record, inputs: tuple[Tensor, ...], value: Tensor) -> Tensor:
        """A copy of the value, over the graph of ``record`` where there is one."""
        y, graph = value.detach().clone(), record.graph
        return y if graph is None else Pullback.apply(graph, (y,), *inputs)

    def hand_out(self, record: Record, module: nn.Module, y: Tensor) -> Constrained:
        """Make ``y`` what the user gets."""
        record.node, record.home = y.grad_fn, weakref.ref(module)
        alias = private.detach(y)
        record.y_version = alias._version
        handed = as_constrained(y, record.home, self.name_in(module))
        record.held, record.out = weakref.ref(handed), (handed, alias)
        return handed

    def again(self, module: nn.Module, record: Record) -> Constrained:
        """The y of ``record``; another of the same value and graph when nobody holds it."""
        y = record.y()
        if y is None:
            return self.restore(module, record)
        if record.out is None:
            record.out = y, private.detach(y)
        return y

    def restore(self, module: nn.Module, record: Record) -> Constrained:
        """The same evaluation, a new y over its graph."""
        value = record.value
        assert value is not None
        with isolated(value.device), torch.enable_grad():
            inputs = self.inputs(module, record.x.tensor)
            return self.hand_out(record, module, self.output(record, inputs, value))

    def attempt(self, module: nn.Module, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        """f at a start that nobody has taken yet: every complaint comes before any change.

        Without a right inverse x is the parameter itself, and this evaluation is kept.
        """
        with isolated(x.device), torch.enable_grad():
            if isinstance(x, nn.Parameter) and versioned(x):
                self.record = self.build(module, self.inputs(module, x))
                self.counts = Counts(evaluations=1, reason="registration")
                return self.again(module, self.record)
            start = x.detach() if versioned(x) else x.clone()
            inputs = self.inputs(module, start.requires_grad_())
            return self.trace(module, inputs, state)[0]

    def trace(
        self, module: nn.Module, inputs: tuple[Tensor, ...], state: dict[str, Tensor]
    ) -> tuple[Tensor, Graph | None]:
        """f on leaves of its own that stand for ``inputs``: the value, the private graph."""
        leaves = tuple(self.leaf(t) for t in inputs)
        value = call(self.function_of(module), leaves[0], state, leaves[1:])
        return value, self.graph(module, value, leaves)

    def leaf(self, tensor: Tensor) -> Tensor:
        """A leaf of the private graph.

        It shares the version counter of ``tensor``, so that a backward after an in-place change
        raises as autograd does. Manual mode asks for a value that outlives such changes: a copy.
        """
        alias = private.detach(tensor)
        alias = alias.clone() if self.mode == "manual" else alias
        return alias.requires_grad_(tensor.requires_grad)

    def graph(self, module: nn.Module, value: Tensor, leaves: tuple[Tensor, ...]) -> Graph | None:
        """The private graph of ``value``; refused with somebody else's trainable tensor in it."""
        if not torch.is_grad_enabled():
            return None
        if reason := captured(value, leaves, self.function):
            raise CapturedTensor(f"{self.where(module)}: {reason}")
        return Graph((value,), leaves, (weakref.ref(self),)) if value.requires_grad else None

    def pull(self, graph: Any, place: int, grad: Tensor | None) -> Tensor | None:
        """Called by the node's backward: hold dL/dy back, or fold what was held back into it."""
        if grad is not None and grad.is_sparse:
            grad = grad.to_dense()  # derivatives of maps are written for dense ones
        current = self.record is not None and self.record.graph is graph
        if self.deferring and current:
            if torch.is_grad_enabled():
                raise ConstraintError(
                    f"`{self.name}`: create_graph=True inside deferred_pullback, where derivatives "
                    "are only summed. Take higher derivatives outside the block."
                )
            if grad is not None:
                held = graph.pending.get(place)
                graph.pending[place] = grad.clone() if held is None else held + grad
            return None
        held = graph.pending.pop(place, None)
        if held is not None:
            grad = held if grad is None else grad + held
        self.counts.pullbacks += 1
        if current and self.record is not None:
            self.record.loosen()
        return grad

    # letting go ---------------------------------------------------------------------------------

    def where(self, module: nn.Module) -> str:
        base = getattr(type(module), "_constrained_base", type(module))
        return f"{base.__name__}.{self.name_in(module)}"

    def pending(self) -> bool:
        record = self.record
        return record is not None and bool(record.graph) and record.place in record.graph.pending

    def drop(self, reason: str) -> None:
        """Forget the value and its graph; a y that is still held somewhere stays watched."""
        record = self.record
        if record is None:
            return
        if self.pending():
            raise PendingGradients(
                f"`{self.name}` changed ({reason}) while gradients collected by deferred_pullback "
                "are pending. Run the last backward outside the block before x changes, or drop "
                "the sums with `discard()`."
            )
        held, home, y = record.held, record.home(), record.y()
        version = record.y_version if y is None else y._version
        self.record = None
        self.counts.reason = reason
        del record, y
        if held() is not None and home is not None:
            _let_go(home, held)
        if held() is not None:
            self.former.append((held, version))

    def expire(self, module: nn.Module) -> None:
        """Somebody says that x was changed; a write to y that nobody has noticed is reported."""
        self.settle(module, told=True)
        self.drop("updated() was called")

    def settle(self, module: nn.Module, told: bool = False) -> None:
        """Notice writes to y, see ``writes``; ``told``: x is known to have changed as well."""
        if not self.untouched():
            writes.settle(self, module, told)

    def untouched(self) -> bool:
        """Whether nobody wrote into a y that is still held."""
        if self.former:
            self.former = [pair for pair in self.former if pair[0]() is not None]
            if any((y := held()) is not None and y._version != v for held, v in self.former):
                return False
        return self.record is None or not self.record.written()


def _let_go(module: nn.Module, y: "weakref.ref[Constrained]") -> None:
    """RNN's list of flat weights, made anew by each forward, lets go of y; others of its graph."""
    for key, value in vars(module).items():
        if isinstance(value, list):
            gone = (lambda _: None) if key == private.FLAT_WEIGHTS else private.detach
            value[:] = [gone(item) if item is y() else item for item in value]
