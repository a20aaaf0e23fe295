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
from . import optimizers, private, writes
from .isolated import isolated
from .key import Companions, versioned
from .pullback import Graph, Pullback, Tensors
from .tensors import SLOTS, Constrained, as_constrained, function_name, guard, raw_name, state_of

_KEPT = ("name", "function", "mode", "state_names", "shape", "tie", "batch", "snapshot", "moved")
_OWN = (
    "companions", "counts", "deferring", "failure", "followed", "former", "number", "override",
    "record", "trusting",
)  # fmt: skip


class Record:
    """One evaluation: x as it was, the key; the y handed out; the private graph, or none."""

    __slots__ = (
        "__weakref__", "alias", "alias_y", "companions", "graph", "held", "home", "node",
        "out", "place", "pointer", "requires_grad", "snapshot", "stream", "tensor", "value",
        "version", "version_y")  # fmt: skip
    companions: Companions
    graph: Any  # a Graph, or what is one for many slots
    place: int  # of y among the outputs of the graph
    value: Tensor | None  # beside y, where f may be random: what a refused write must not change
    home: weakref.ref[nn.Module]
    out: Constrained | None  # y
    alias_y: Any  # a plain alias of y is asked for its version in a third of the time
    held: "weakref.ref[Constrained]"  # y after ``loosen``

    def __init__(self, x: Tensor, snapshot: Any, alias: Tensor | None = None):
        self.tensor = x
        self.alias = alias = private.detach(x) if alias is None else alias
        self.version, self.pointer = alias._version, alias.data_ptr()
        self.requires_grad, self.place, self.stream = x.requires_grad, 0, private.stream(x)
        self.snapshot = None if snapshot is None else snapshot(x)
        self.graph = self.value = self.out = None

    def hold(self, y: Any, alias: Tensor, home: Any, node: Any) -> Constrained:
        """Make ``y`` what the user gets."""
        self.alias_y, self.home, self.node = alias, home[0], node
        self.version_y = alias._version
        self.out = handed = as_constrained(y, home)
        return handed

    def y(self) -> Constrained | None:
        """What was handed out, while somebody or this record holds it."""
        return self.held() if self.out is None else self.out

    def written(self) -> bool:
        """Whether somebody wrote into y."""
        y = self.held() if self.out is None else self.alias_y
        return y is not None and y._version != self.version_y

    def depends_on(self, held: dict[int, Any]) -> bool:
        """Whether a tensor with one of these ids goes into y beside x."""
        return not held.keys().isdisjoint(self.companions.ids)

    def same(self, x: Tensor) -> bool:
        """Whether ``x`` is what it was."""
        return (
            x is self.tensor
            and self.alias._version == self.version
            and x.data_ptr() == self.pointer
            and x.requires_grad is self.requires_grad
        )

    def moved(self) -> bool:
        """Whether what y is a function of was written to, as an optimiser does."""
        return self.alias._version != self.version or self.companions.moved()

    def loosen(self) -> None:
        """After a backward, a y beside a kept value lives as long as others hold it.

        The next read makes another y of the same value. A y that somebody marked is kept.
        """
        y = None if self.value is None else self.y()
        if y is None or y.retains_grad or y._backward_hooks or len(vars(y)) > 1 or self.written():
            return
        self.held, self.out, self.alias_y = weakref.ref(y), None, None


@dataclass(slots=True)
class Counts:
    """What ``statistics`` shows of one parameter."""

    evaluations: int = 0
    pullbacks: int = 0
    hits: int = 0
    reason: str = "first read"


class Slot:
    """Where the tensor of one name lives. Holds no module: copies never share a value."""

    __slots__ = ("__weakref__", *_OWN, *_KEPT)

    def __init__(self, name: str, function: Any, mode: str):
        self.name, self.function, self.mode = name, function, mode
        self.state_names: tuple[str, ...] = ()
        self.shape: tuple[int, ...] = ()
        self.moved: tuple[float, float] | None = None  # by registration: distance, in percent
        self.tie: Any = None  # what keeps x one tensor when modules share this slot
        self.batch: Any = None  # what evaluates f for this and other slots at once, attach/batch
        self.snapshot: Any = None  # what takes one of x, see attach/verified
        self._fresh()

    def _fresh(self) -> None:
        self.record: Record | None = None
        self.companions: Companions | None = None  # the last that were seen
        self.trusting = self.mode == "manual"
        self.followed = False  # by core/optimizers
        self.former: tuple[tuple[weakref.ref[Any], int], ...] = ()  # y's of the past, still held
        self.override: tuple[Tensor, ...] = ()
        self.number = -1  # what compiled graphs call f, see attach/tracing
        self.deferring = 0
        self.counts = Counts()
        self.failure: AttributeError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key in _KEPT:
            setattr(self, key, state[key])
        self._fresh()

    # reading ------------------------------------------------------------------------------------

    def read(self, module: nn.Module) -> Tensor:
        """y: the tensor handed out before when nothing it depends on has changed, else f again."""
        if self.override:
            return self.override[-1]
        if private.transforming(x := self.x_in(module)):
            if x is not None and private.stream(x) == -1 and self.untouched():
                self.drop("a CUDA graph is captured")  # its node adds to x.grad on another stream
            return self.inline(module)
        self.settle(module)
        x = self.x_in(module)
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
        del record  # f starts without the graph of before, and its node that adds to x.grad
        return self.evaluate(module, x, reason)

    def inline(self, module: nn.Module) -> Tensor:
        """f on the x that is there, cache untouched: for tracers, compilers and transforms."""
        function = self.function_of(module)
        x = self.x_in(module)
        low = compute_dtype(x.dtype) != x.dtype  # else f is called as it is, which compiles
        own = parameters_of(function) if low else []
        return call(function, x, self.state_in(module), own)

    def name_in(self, module: nn.Module) -> str:
        """The name of y in ``module``: modules that share a slot may call it differently."""
        slots = module.__dict__.get(SLOTS, {})
        if slots.get(self.name) is self:
            return self.name
        return next((name for name, slot in slots.items() if slot is self), self.name)

    def x_in(self, module: nn.Module) -> Any:
        """x; the replica of a module has it elsewhere than among its parameters."""
        raw = raw_name(self.name_in(module))
        x = module._parameters.get(raw)
        return getattr(module, raw) if x is None else x

    def state_in(self, module: nn.Module) -> dict[str, Tensor]:
        """What the map remembers, from the buffers of ``module``."""
        names = self.state_names
        return state_of(module, self.name_in(module), names) if names else {}

    def function_of(self, module: nn.Module) -> Any:
        """An nn.Module f is a submodule, so that replicas and copies use their own."""
        if not isinstance(self.function, nn.Module):
            return self.function
        return module._modules.get(function_name(self.name_in(module)), self.function)

    def changed(self, module: nn.Module, x: Tensor, record: Record) -> str:
        """Why ``record`` cannot be handed out, or "" when it can."""
        if record.graph is None and self.wants_graph(module, self.inputs(module, x)):
            return "first read with grad"
        if self.mode == "manual":
            return "" if record.tensor is x else "x is another object"
        if not versioned(x) or not record.same(x):
            return "x changed"
        if record.stream is not None and record.stream != private.stream(x):
            return "another CUDA stream"  # which did not wait for y
        if not record.companions.same():
            return "map state or parameters of f changed"
        if record.snapshot is not None and not record.snapshot.same(x):
            return "x changed without a trace"
        return ""

    def inputs(self, module: nn.Module, x: Tensor) -> Tensors:
        """What the derivative of f is taken by: x, then the parameters of an nn.Module f."""
        return (x, *self.known(module).parameters)

    def known(self, module: nn.Module) -> Companions:
        """f as it was found last, found anew where an nn.Module f is made of other objects now."""
        f, last = self.function_of(module), self.companions
        if last is None or last.function is not f or (last.parts and not last.same(False)):
            last = self.companions = self.found(module)
        return last

    def found(self, module: nn.Module) -> Companions:
        """Walk through f."""
        return Companions(module, self.name_in(module), self.state_names, self.function_of(module))

    def wants_graph(self, module: nn.Module, inputs: Tensors) -> bool:
        """All but eval() without grad and wholly frozen parameters are evaluated with a graph."""
        trains = any(t.requires_grad for t in inputs)
        return trains and (module.training or torch.is_grad_enabled())

    # evaluating ---------------------------------------------------------------------------------

    def evaluate(self, module: nn.Module, x: Tensor, reason: str) -> Tensor:
        """Run f once, keep its graph, hand out y as the output of one node over it."""
        guard(self.whole(module, x))
        known = self.known(module)
        if not (versioned(x) and known.steady):
            return self.inline(module)
        record = None if self.batch is None else self.batch.evaluate(self, module, x, reason)
        if record is None:
            for parameter in known.parameters:
                guard(parameter)
            self.drop(reason)
            self.keep(record := self.build(module, x, known), reason)
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

    def build(self, module: nn.Module, x: Tensor, known: Companions) -> Record:
        """Evaluate f on leaves of its own. x's version is read before f, f's buffers' after."""
        record, inputs = Record(x, self.snapshot), (x, *known.parameters)
        with isolated(x.device, self.wants_graph(module, inputs)):
            value, record.graph = self.trace(module, known, inputs, self.state_in(module))
            again = record.graph is None or isinstance(known.function, Constraint)
            record.value = None if again else value.detach()
            self.hand_out(record, module, self.output(record, inputs, value))
        record.companions = self.watched(module, known)
        return record

    def watched(self, module: nn.Module, known: Companions) -> Companions:
        """What f depends on besides x, as it is now."""
        if known.same():
            return known
        self.companions = known.renewed() or self.found(module)
        return self.companions

    def output(self, record: Record, inputs: Tensors, value: Tensor) -> Tensor:
        """A copy of the value, over the graph of ``record`` where there is one."""
        y, graph = value.detach().clone(), record.graph
        return y if graph is None else Pullback.over(graph, (y,), inputs)

    def hand_out(self, record: Record, module: nn.Module, y: Tensor) -> Constrained:
        """Make ``y`` what the user gets."""
        home = weakref.ref(module), self.name_in(module)
        return record.hold(y, private.detach(y), home, y.grad_fn)

    def again(self, module: nn.Module, record: Record) -> Constrained:
        """The y of ``record``; another of the same value and graph when nobody holds it."""
        y = record.y()
        if y is None:
            return self.restore(module, record)
        if record.out is None:
            record.out, record.alias_y = y, private.detach(y)
        return y

    def restore(self, module: nn.Module, record: Record) -> Constrained:
        """The same evaluation, a new y over its graph."""
        value: Any = record.value
        with isolated(value.device, True):
            inputs = self.inputs(module, record.tensor)
            return self.hand_out(record, module, self.output(record, inputs, value))

    def attempt(self, module: nn.Module, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        """f at a start that nobody has taken yet: every complaint comes before any change.

        Without a right inverse x is the parameter itself, and this evaluation is kept.
        """
        known = self.found(module)  # not kept: its buffers are not registered yet
        with isolated(x.device, True):
            if isinstance(x, nn.Parameter) and versioned(x) and known.steady:
                self.record = self.build(module, x, known)
                self.counts = Counts(evaluations=1, reason="registration")
                return self.again(module, self.record)
            start = x.detach() if versioned(x) else x.clone()
            inputs = (start.requires_grad_(), *known.parameters)
            return self.trace(module, known, inputs, state)[0]

    def trace(
        self, module: nn.Module, known: Companions, inputs: Tensors, state: dict[str, Tensor]
    ) -> tuple[Tensor, Graph | None]:
        """f on leaves of its own that stand for ``inputs``: the value, the private graph."""
        leaves = tuple([self.leaf(t) for t in inputs])
        value = call(known.function, leaves[0], state, leaves[1:], known.places)
        return value, self.graph(module, value, leaves)

    def leaf(self, tensor: Tensor) -> Tensor:
        """A leaf of the private graph.

        It shares the version counter of ``tensor``, so that a backward after an in-place change
        raises as autograd does. Manual mode asks for a value that outlives such changes: a copy.
        """
        alias = private.detach(tensor)
        alias = alias.clone() if self.mode == "manual" else alias
        return alias.requires_grad_(tensor.requires_grad)

    def graph(self, module: nn.Module, value: Tensor, leaves: Tensors) -> Graph | None:
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
        kind = getattr(type(module), "_constrained_base", type(module)).__name__
        return f"{kind}.{self.name_in(module)}"

    def pending(self) -> bool:
        record = self.record
        return record is not None and bool(record.graph) and record.place in record.graph.pending

    def drop(self, reason: str) -> None:
        """Forget the value and its graph; a y that is still held somewhere stays watched."""
        if (record := self.record) is None:
            return
        if self.pending():
            raise PendingGradients(
                f"`{self.name}` changed ({reason}) while gradients collected by deferred_pullback "
                "are pending. Run the last backward outside the block before x changes, or drop "
                "the sums with `discard()`."
            )
        y, home = record.y(), record.home
        self.record, self.counts.reason = None, reason
        if y is None:
            return
        held, version = weakref.ref(y), y._version
        del record, y
        if held() is not None and (module := home()) is not None:
            _let_go(module, held)
        if held() is not None:
            self.former += ((held, version),)

    def expire(self, module: nn.Module, reason: str = "updated() was called") -> None:
        """x is known to have changed; a write to y that nobody has noticed is reported."""
        self.settle(module, told=True)
        self.drop(reason)

    def settle(self, module: nn.Module, told: bool = False) -> None:
        """Notice writes to y, see ``writes``; ``told``: x is known to have changed as well."""
        if not self.untouched():
            writes.settle(self, module, told)

    def untouched(self) -> bool:
        """Whether nobody wrote into a y that is still held."""
        if self.former:
            self.former = tuple([pair for pair in self.former if pair[0]() is not None])
            if any((y := held()) is not None and y._version != v for held, v in self.former):
                return False
        return self.record is None or not self.record.written()


def _let_go(module: nn.Module, y: "weakref.ref[Constrained]") -> None:
    """RNN's list of flat weights, made anew by each forward, lets go of y; others of its graph."""
    for key, value in vars(module).items():
        if type(value) is list:
            gone = (lambda _: None) if key == private.FLAT_WEIGHTS else private.detach
            value[:] = [gone(item) if item is y() else item for item in value]
