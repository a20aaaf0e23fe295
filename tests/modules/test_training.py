"""Every kind of module trains as the naive model does: same losses, gradients, steps, buffers."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .naive import (
    OPTIMIZERS,
    ROWS,
    Naive,
    accumulate,
    bounded,
    constrain,
    equal,
    loss_of,
    orthogonal,
    owner,
    train,
    value,
    x_of,
    y_of,
)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_trains_as_the_naive_model(row, optimizer):
    """And f runs once per step, its derivative once per backward pass."""
    model, naive = row.pair()
    got = train(model, row.call, optimizer(model.parameters()))
    want = train(naive, row.call, optimizer(naive.parameters()))
    equal(got, want)
    naive.assert_same(model)
    assert all(x_of(model, n).grad.count_nonzero() for n in row.functions)
    for counts in cp.statistics(model).values():
        assert (counts.evaluations, counts.pullbacks) == (3, 6)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_evaluates_as_the_naive_model(row):
    """In eval mode, without grad and in inference mode, between training steps as well."""
    model, naive = row.pair()
    steps = [OPTIMIZERS["sgd"](m.parameters()) for m in (model, naive)]
    for step in range(2):
        for m, optimizer in zip((model, naive), steps, strict=True):
            train(m.train(), row.call, optimizer, steps=[step], micro=1)
            m.train(False)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            outs = []
            for m in (model, naive):
                torch.manual_seed(step)
                with mode():
                    outs.append(loss_of(row.call(m)))
            equal(*outs)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_one_derivative_per_step_with_deferred_pullback(row):
    model, naive = row.pair()
    with cp.deferred_pullback(model):
        accumulate(model, row.call, [1, 2])
    accumulate(model, row.call, [3])
    accumulate(naive, row.call, [1, 2])
    accumulate(naive, row.call, [3])
    naive.assert_same(model)
    for counts in cp.statistics(model).values():
        assert (counts.evaluations, counts.pullbacks) == (1, 1)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_in_float32_and_back(row):
    """``.float()`` and ``.double()`` move x; the module works at once, y in the new dtype."""
    model, _ = row.pair()
    row.call(model)
    before = {n: value(x_of(model, n)) for n in row.functions}
    model.float()
    for n, f in row.functions.items():
        assert y_of(model, n).dtype == torch.float32
        assert torch.equal(value(y_of(model, n)), f(before[n].float()))
    model.double()
    loss_of(row.call(model)).backward()
    for n, f in row.functions.items():
        equal(y_of(model, n), f(before[n].float().double()))
        assert x_of(model, n).grad.dtype == torch.float64


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_plain_again_after_removal(row):
    """The class of every module is what it was, and the plain module computes the same."""
    model, naive = row.pair()
    train(model, row.call, OPTIMIZERS["sgd"](model.parameters()))
    model.eval()
    torch.manual_seed(5)
    want = loss_of(row.call(model))
    for n in row.functions:
        cp.remove_constrained_parameter(*owner(model, n))
    assert [type(m) for m in model.modules()] == [type(m) for m in naive.module.modules()]
    assert list(model.state_dict()) == list(naive.module.state_dict())
    torch.manual_seed(5)
    equal(loss_of(row.call(model)), want)


# Convolutions read as matrices ------------------------------------------------------------------
VIEWS = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 2), "o i w -> o (i w)", (2, 3, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2), "o i h w -> o (i h w)", (2, 2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 3, 2), "o i d h w -> o (i d h w)", (2, 1, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), "i o h w -> i (o h w)", (2, 2, 4, 4)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("make", "view", "shape"), VIEWS.values(), ids=VIEWS)
def test_a_convolution_read_as_a_matrix(make, view, shape, optimizer):
    """It trains as a matrix reshaped by hand does, and its rows stay orthonormal."""
    layer = make()
    matrix = value(layer.weight).flatten(1)
    model = constrain(layer, {"weight": cp.Orthogonal(view=view)})
    free = cp.Parametrized(matrix, cp.Orthogonal())
    bias = nn.Parameter(value(layer.bias))
    plain = make()

    def by_hand(inputs):
        given = {"weight": free.y.reshape(plain.weight.shape), "bias": bias}
        return torch.func.functional_call(plain, given, (inputs,))

    def call(m):
        return m(torch.randn(*shape))

    got = train(model, call, optimizer(model.parameters()))
    want = train(by_hand, call, optimizer([*free.parameters(), bias]))
    equal(got, want)
    rows = value(model.weight).flatten(1)
    equal(rows @ rows.t(), torch.eye(len(rows)))


# Modules of a user ------------------------------------------------------------------------------
class Own(nn.Module):
    """Registers in __init__; reads both in a loop."""

    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.rand(4, 4))
        self.scale = nn.Parameter(torch.rand(4))
        cp.register_constrained_parameter(self, "q", orthogonal)
        cp.register_constrained_parameter(self, "scale", torch.tanh)
        self.later = nn.Linear(4, 4)

    def forward(self, h):
        for _ in range(5):
            h = torch.tanh(h @ self.q * self.scale)
        return self.later(h)


class Derived(Own):
    """Registers one more, after its base has."""

    def __init__(self):
        super().__init__()
        self.more = nn.Parameter(torch.rand(4))
        cp.register_constrained_parameter(self, "more", bounded)

    def forward(self, h):
        return super().forward(h) + self.more


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.rand(4, 4))
        self.scale = nn.Parameter(torch.rand(4))
        self.later = nn.Linear(4, 4)

    forward = Own.forward


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_module_that_registers_in_its_init(optimizer):
    torch.manual_seed(2)
    model = Own()
    torch.manual_seed(2)
    naive = Naive(Plain(), {"q": orthogonal, "scale": torch.tanh})

    def call(m):
        return m(torch.randn(3, 4))

    got = train(model, call, optimizer(model.parameters()))
    equal(got, train(naive, call, optimizer(naive.parameters())))
    naive.assert_same(model)
    assert type(model) is type(Own()) and isinstance(model, Own)


def test_a_class_that_registers_after_its_base():
    model = Derived()
    assert isinstance(model, Own) and type(model) is type(Derived()) is not type(Own())
    train(model, lambda m: m(torch.randn(3, 4)), OPTIMIZERS["adam"](model.parameters()))
    for name, f in {"q": orthogonal, "scale": torch.tanh, "more": bounded}.items():
        equal(y_of(model, name), f(x_of(model, name)))
        cp.remove_constrained_parameter(model, name)
    assert type(model) is Derived


def test_one_layer_in_two_places():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    naive = Naive(model, {"0.weight": orthogonal})
    constrain(model, {"0.weight": orthogonal})

    def call(m):
        return m(torch.randn(3, 4))

    steps = [OPTIMIZERS["sgd"](m.parameters()) for m in (model, naive)]
    equal(train(model, call, steps[0]), train(naive, call, steps[1]))
    naive.assert_same(model)
    assert cp.statistics(model)["0.weight"].evaluations == 3
