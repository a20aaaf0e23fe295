"""Compiled graphs: equal to eager, with one f and one derivative, shared by equal blocks."""

import collections
import copy
import functools
import json
import types
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.virtualized import V
from torch.testing import assert_close

import constrainedparams as cp
from constrainedparams.testing import ROWS

# Of torch's own code while it traces and lowers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch._prims_common.check. is deprecated:FutureWarning",
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning",
    "ignore::DeprecationWarning",
)


class Scaled(nn.Module):
    """exp(s x) with a learnt s: a derivative in x and in s."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.exp(self.scale * x)


class Gain(nn.Module):
    """Another value in eval and with another number of turns; parameters and plain attributes."""

    def __init__(self, turns=1):
        super().__init__()
        self.inner = Scaled()
        self.turns = turns

    def forward(self, x):
        for _ in range(self.turns):
            x = torch.tanh(self.inner(x))
        return x if self.training else 5 * x


class PowerIteration(nn.Module):
    """x / |x u| with u a buffer that f itself moves on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("u", torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.u.copy_(nn.functional.normalize(x.detach().t() @ (x.detach() @ self.u), dim=0))
        return x / torch.linalg.vector_norm(x @ self.u.clone())


class Repeated(nn.Module):
    """Ten reads of one constrained weight."""

    def __init__(self, function, reads=10):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        cp.register_constrained_parameter(self.layer, "weight", function)
        self.reads = reads

    def forward(self, x):
        for _ in range(self.reads):
            x = torch.sin(self.layer(x))
        return x


@pytest.fixture(autouse=True)
def _new_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counting_backend(counts):
    """aot_autograd with the operations of its graphs counted."""

    def count(kind):
        def compiler(graph, _):
            for node in graph.graph.nodes:
                if node.op == "call_function":
                    counts[kind, node.target.__name__.split(".")[0]] += 1
            return make_boxed_func(graph.forward)

        return compiler

    return aot_autograd(fw_compiler=count("forward"), bw_compiler=count("backward"))


def step(model, x):
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return out.detach(), [p.grad for p in model.parameters()]


def same(compiled, eager, x, **tolerance):
    out, grads = step(compiled, x)
    expected, wanted = step(eager, x)
    tolerance = tolerance or {"rtol": 1e-5, "atol": 1e-6}
    assert_close(out, expected, **tolerance)
    for got, want in zip(grads, wanted, strict=True):
        assert_close(got, want, **tolerance)


BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
MEASURED = json.loads((Path(__file__).parents[2] / "docs/bench-gpu.json").read_text())["sets"]
MEASURED.pop("CorrelationCholesky()-3x3", None)  # counted first, with a wait of CUDA's own

# (f, the operation that stands for f, those that its derivative has one of)
COUNTED = {
    "callable": (
        lambda x: torch.matrix_exp(x.triu(1) - x.triu(1).t()),
        "linalg_matrix_exp",
        {"linalg_matrix_exp"},
    ),
    "module": (Scaled(), "exp", set()),
    "exp": (cp.Orthogonal(), "expm_skew", {"expm_skew_pullback"}),
    "positive definite": (cp.PositiveDefinite(), "softplus", set()),
}


@pytest.mark.parametrize("name", COUNTED)
def test_one_f_and_one_derivative_for_ten_reads(name):
    function, operation, derivatives = COUNTED[name]
    model = Repeated(copy.deepcopy(function))
    counts = collections.Counter()
    compiled = torch.compile(model, backend=counting_backend(counts), fullgraph=True)
    same(compiled, copy.deepcopy(model), torch.randn(3, 4))
    one = collections.Counter()
    single = torch.compile(
        Repeated(copy.deepcopy(function), reads=1), backend=counting_backend(one), fullgraph=True
    )
    step(single, torch.randn(3, 4))
    assert counts["forward", operation] == one["forward", operation] == 1
    for name in {operation, "expm_skew_pullback", *derivatives}:
        expected = 1 if name in derivatives else 0
        assert counts["backward", name] == one["backward", name] == expected


EVERY = [
    pytest.param(case, dtype, id=f"{case.constraint!r} {case.shape} {dtype}")
    for case in ROWS
    for dtype in (torch.float64, torch.complex128)
    if case.constraint.has_complex or not dtype.is_complex
]


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "dtype"), EVERY)
def test_every_set_compiled_is_eager(case, dtype, backend):
    torch.manual_seed(0)
    model = cp.Parametrized(case.constraint.sample(case.shape, dtype=dtype), case.constraint)
    with torch.no_grad():
        model.x.add_(0.1 * torch.randn_like(model.x))
    weights = torch.randn_like(model.y.detach())
    twin = copy.deepcopy(model)

    def loss(m):
        return ((m.y + m().square()) * weights).abs().square().sum()

    compiled = torch.compile(lambda: loss(model), backend=backend, fullgraph=True)
    compiled().backward()
    loss(twin).backward()
    assert_close(compiled().detach(), loss(twin).detach(), rtol=1e-10, atol=1e-10)
    assert_close(model.x.grad, twin.x.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_inductor_keeps_gradients_through_a_complex_diagonal():
    """Of all complex sets the slow tests above ask it; it lost those of five."""
    x, w = torch.randn(2, 2, 2, dtype=torch.complex128)
    found = []
    for function in (cp.Invertible(), torch.compile(cp.Invertible(), fullgraph=True)):
        leaf = x.clone().requires_grad_()
        (function(leaf) * w).abs().square().sum().backward()
        found.append(leaf.grad)
    assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in ROWS if str(case) in MEASURED], ids=str)
def test_what_waits_for_values_is_kept_out_of_cuda_graphs(case):
    """Whether Inductor is told so, beside the waits that were counted on a GPU."""
    model = cp.Parametrized(case.constraint.sample(case.shape), case.constraint)
    torch._dynamo.reset()
    graph = types.SimpleNamespace(disable_cudagraphs_reason=None)
    with V.set_graph_handler(graph):
        compiled = torch.compile(lambda: model().abs().sum(), backend="aot_eager", fullgraph=True)
        compiled().backward()
    assert bool(graph.disable_cudagraphs_reason) == bool(MEASURED[str(case)]["waits"]["there"])


def count_nodes(read, x, reads):
    """Operations of the forward and of the backward graph of a loss that reads y several times."""
    counts = collections.Counter()

    def loss():
        return sum((read() * (1.7 + i)).abs().square().sum() for i in range(reads))

    torch._dynamo.reset()
    torch.compile(loss, backend=counting_backend(counts), fullgraph=True)().backward()
    kinds = ("forward", "backward")
    return [sum(n for (kind, _), n in counts.items() if kind == k) for k in kinds]


@functools.cache
def growth_of_a_free_parameter():
    x = nn.Parameter(torch.randn(3, 3))
    few, many = (count_nodes(lambda: x, x, reads) for reads in (1, 3))
    return [b - a for a, b in zip(few, many, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_more_reads_are_no_more_of_f(case):
    """The graphs of three reads have more operations than those of one as for a free parameter."""
    model = cp.Parametrized(case.constraint.sample(case.shape), case.constraint)
    few, many = (count_nodes(lambda: model.y, model.x, reads) for reads in (1, 3))
    assert [b - a for a, b in zip(few, many, strict=True)] == growth_of_a_free_parameter()


def test_a_module_with_buffers_is_traced_as_it_is():
    """Its buffers move inside of the graph, once for each read, as they do in eager mode inline."""
    model = Repeated(PowerIteration(), reads=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = model.layer._weight_function.u.clone()
    out = compiled(torch.ones(1, 4))
    assert not torch.equal(model.layer._weight_function.u, before)
    assert torch.isfinite(out).all()


EQUAL = {
    "set": lambda: cp.Orthogonal("cayley"),
    "function": lambda: torch.tanh,
    "lambda": lambda: lambda x: torch.tanh(x),
    "module": Scaled,
    "nested module": Gain,
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_blocks_share_one_graph(name):
    """Each of 12 blocks has an f of its own that is equal to the others."""
    blocks = [Repeated(EQUAL[name](), reads=2) for _ in range(12)]
    counter = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = [torch.compile(block, backend=counter, fullgraph=True) for block in blocks]
        for i, (one, block) in enumerate(zip(compiled, blocks, strict=True)):
            with torch.no_grad():
                block.layer._weight_unconstrained.add_(0.01 * i)
            same(one, copy.deepcopy(block), torch.ones(2, 4))
    assert counter.frame_count == 1


def test_unequal_blocks_do_not_share_a_graph():
    """Functions that look alike and differ in a closure, a default, an attribute or a mode."""

    def bound(k):
        return lambda x: k * torch.tanh(x)

    functions = [bound(1.0), bound(2.0), Gain(), Gain(turns=2), Gain().eval()]
    functions += [lambda x, k=k: k * torch.tanh(x) for k in (3.0, 4.0)]
    for function in functions:
        block = Repeated(function, reads=2)
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        same(compiled, copy.deepcopy(block), torch.ones(2, 4))


SHIFT = torch.linspace(-1.0, 1.0, 16).view(4, 4)


class Shifted:
    """A tensor as an attribute, in an object inside of another."""

    def __init__(self, inner=None):
        self.shift, self.inner = SHIFT + 1, inner

    def __call__(self, x):
        return torch.tanh(x) + self.shift

    def inside(self, x):
        return self.inner(x)


class ShiftedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.shifts = [SHIFT + 2]  # no buffer

    def forward(self, x):
        return torch.tanh(x) + self.shifts[0]


def closed_over(shift):
    return lambda x: torch.tanh(x) + shift["by"]


HOLDING = {
    "global name": lambda x: torch.tanh(x) + SHIFT,
    "closure": closed_over({"by": SHIFT.clone()}),
    "default": lambda x, shift=SHIFT: torch.tanh(x) + shift,
    "argument": functools.partial(torch.add, SHIFT),
    "attribute": Shifted(),
    "method": Shifted(Shifted()).inside,
    "module": ShiftedModule(),
}


@pytest.mark.parametrize("f", HOLDING.values(), ids=HOLDING)
def test_functions_that_hold_tensors(f):
    block = Repeated(f, reads=2)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    same(compiled, copy.deepcopy(block), torch.ones(2, 4))


def test_a_tensor_that_f_holds_may_change():
    shift = {"by": SHIFT.clone()}
    block = Repeated(closed_over(shift), reads=2)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for change in (lambda: None, lambda: shift["by"].add_(1), lambda: shift.update(by=2 * SHIFT)):
        change()
        block.layer.weight.updated()
        same(compiled, block, torch.ones(2, 4))


@pytest.mark.parametrize("how", [torch.compile, cp.compile])
def test_train_eval_and_attributes_of_f_are_noticed(how):
    block = Repeated(Gain(), reads=2)
    compiled = how(block, backend="aot_eager", fullgraph=True)
    f = block.layer._weight_function
    for change in (lambda: None, block.eval, block.train, f.eval, lambda: setattr(f, "turns", 3)):
        change()
        block.layer.weight.updated()  # attributes of f are no part of eager mode's key
        same(compiled, block, torch.ones(2, 4))


def test_training_is_that_of_eager():
    model = Repeated(cp.Orthogonal())
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (model, twin)]
    for _ in range(4):
        x = torch.randn(3, 4)
        same(compiled, twin, x)
        for optimizer in optimizers:
            optimizer.step()
    assert_close(model.layer.weight.detach(), twin.layer.weight.detach())


def test_x_changed_inside_of_the_graph():
    model = Repeated(torch.tanh, reads=1)

    @torch.compile(backend="aot_eager")
    def twice(x):
        first = model.layer.weight.sum()
        with torch.no_grad():
            model.layer._weight_unconstrained.add_(1.0)
        return first, model.layer.weight.sum()

    raw = model.layer._weight_unconstrained.detach().clone()
    first, second = twice(torch.ones(1))
    assert_close(first.detach(), raw.tanh().sum())
    assert_close(second.detach(), (raw + 1).tanh().sum())


def test_a_read_without_grad_first_costs_no_gradient():
    model = Repeated(torch.tanh, reads=1)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss():
        with torch.no_grad():
            size = model.layer.weight.sum()
        return model.layer.weight.square().sum() * size.detach()

    raw = model.layer._weight_unconstrained.detach().clone().requires_grad_()
    loss().backward()
    (raw.tanh().square().sum() * raw.tanh().sum().detach()).backward()
    assert_close(model.layer._weight_unconstrained.grad, raw.grad)


def test_autocast_stays_out_of_f():
    model = Repeated(cp.Orthogonal())

    @torch.compile(backend="aot_eager", fullgraph=True)
    def weight():
        return model.layer.weight * 1.0

    with torch.autocast("cpu", torch.bfloat16):
        y = weight()
    assert (y.detach().T @ y.detach() - torch.eye(4)).abs().max() < 1e-6


# cp.compile --------------------------------------------------------------------------------------


def test_compile_hoists_f():
    """4 micro-batches x 4 steps: 4 evaluations, 1 graph, no recompilation."""
    model = Repeated(cp.Orthogonal())
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = cp.compile(model, backend=counter, fullgraph=True)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (compiled, twin)]
    before = cp.statistics(model)["layer.weight"].evaluations
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(4):
            for _ in range(4):
                x = torch.randn(3, 4)
                for m in (compiled, twin):
                    m(x).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert cp.statistics(model)["layer.weight"].evaluations == before + 4
    assert counter.frame_count == 1
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_compile_with_deferral_and_evaluation():
    model = Repeated(cp.Orthogonal())
    compiled = cp.compile(model, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin = copy.deepcopy(model)
    x = torch.randn(3, 4)
    before = cp.statistics(model)["layer.weight"]
    with cp.deferred_pullback(model):
        compiled(x).square().sum().backward()
    compiled(x).square().sum().backward()
    (2 * twin(x).square().sum()).backward()
    after = cp.statistics(model)["layer.weight"]
    assert (after.evaluations - before.evaluations, after.pullbacks - before.pullbacks) == (1, 1)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)
    optimizer.step()
    with torch.no_grad():
        assert_close(compiled.eval()(x), model(x))


def test_compile_leaves_nothing_behind_when_forward_raises():
    class Picky(Repeated):
        def forward(self, x):
            if x.shape[0] > 3:
                raise ValueError("too long")
            return super().forward(x)

    model = Picky(torch.tanh)
    compiled = cp.compile(model, backend="eager")
    y = model.layer.weight
    for _ in range(2):
        with pytest.raises(ValueError, match="too long"):
            compiled(torch.ones(4, 4))
    assert model.layer.weight is y
    model.layer.weight.updated()
    with torch.no_grad():
        model.layer._weight_unconstrained.add_(1.0)
    assert_close(model.layer.weight.detach(), model.layer._weight_unconstrained.detach().tanh())


def test_compile_keeps_a_temporary_value_and_tied_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cp.register_constrained_parameter(model[0], "weight", cp.Orthogonal())
    cp.share_constrained_parameter(model[0], "weight", model[1])
    compiled = cp.compile(model, backend="aot_eager", fullgraph=True)
    twin = copy.deepcopy(model)
    same(compiled, twin, torch.ones(2, 4))
    with cp.temporarily(model[0], "weight", torch.zeros(4, 4)):
        out = compiled(torch.ones(2, 4))
    assert_close(out, model[1].bias.expand(2, 4))
