"""Every kind of module that owns a parameter, also where its forward is never called."""

import copy
import pickle

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import assert_fresh, change, constrained_linear, equal, naive, skew_exp, tanh_exp

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}

MODULES = {
    "linear": (lambda: nn.Linear(4, 4), "weight", lambda m: m(torch.rand(2, 4))),
    "linear_bias": (lambda: nn.Linear(4, 4), "bias", lambda m: m(torch.rand(2, 4))),
    "conv1d": (lambda: nn.Conv1d(2, 3, 2), "weight", lambda m: m(torch.rand(1, 2, 5))),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2), "weight", lambda m: m(torch.rand(1, 2, 5, 5))),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), "weight", lambda m: m(torch.rand(1, 1, 3, 3, 3))),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), "weight", lambda m: m(torch.rand(1, 2, 5, 5))),
    "embedding": (lambda: nn.Embedding(5, 3), "weight", lambda m: m(torch.tensor([0, 3, 3]))),
    "bag": (lambda: nn.EmbeddingBag(5, 3), "weight", lambda m: m(torch.tensor([[0, 3], [3, 1]]))),
    "bilinear": (lambda: nn.Bilinear(2, 3, 4), "weight", lambda m: m(torch.rand(2, 2), torch.rand(2, 3))),
    "batchnorm": (lambda: nn.BatchNorm1d(4), "weight", lambda m: m(torch.rand(3, 4))),
    "layernorm": (lambda: nn.LayerNorm(4), "weight", lambda m: m(torch.rand(3, 4))),
    "prelu": (nn.PReLU, "weight", lambda m: m(torch.randn(5))),
    "rnn": (lambda: nn.RNN(3, 4), "weight_hh_l0", lambda m: m(torch.rand(6, 2, 3))[0]),
    "gru": (lambda: nn.GRU(3, 4), "weight_ih_l0", lambda m: m(torch.rand(6, 2, 3))[0]),
    "lstm": (lambda: nn.LSTM(3, 4), "weight_hh_l0", lambda m: m(torch.rand(6, 2, 3))[0]),
    "lstm_two": (lambda: nn.LSTM(3, 4, 2, bidirectional=True), "weight_hh_l1_reverse",
                 lambda m: m(torch.rand(6, 2, 3))[0]),
    "rnncell": (lambda: nn.RNNCell(3, 4), "weight_hh", lambda m: m(torch.rand(2, 3))),
    "attention_in": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight",
                     lambda m: m(*[torch.rand(3, 2, 4)] * 3)[0]),
    "list": (lambda: nn.ParameterList([torch.rand(3)]), "0", lambda m: m[0].sin()),
}  # fmt: skip


@pytest.mark.parametrize(("make", "name", "run"), MODULES.values(), ids=MODULES)
def test_module_type(make, name, run):
    """Output and all gradients are those of the same module with f(x) put in by functional_call."""
    module = make()
    plain = copy.deepcopy(module)
    cp.register_constrained_parameter(module, name, tanh_exp)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for step in range(3):
        torch.manual_seed(step)
        out = run(module)
        out.square().sum().backward()
        x = getattr(module, f"_{name}_unconstrained").detach().clone().requires_grad_()
        given = {n: p for n, p in module.named_parameters() if n != f"_{name}_unconstrained"}
        torch.manual_seed(step)
        want = run(Substituted(plain, {**given, name: tanh_exp(x)}))
        equal(out, want)
        (grad,) = torch.autograd.grad(want.square().sum(), x)
        equal(getattr(module, f"_{name}_unconstrained").grad, grad)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            run(module.eval())
        module.train()
    assert isinstance(module, type(plain))


class Substituted:
    """The plain module called with other tensors: shares no code with the engine."""

    def __init__(self, module, tensors):
        self.module, self.tensors = module, tensors

    def __call__(self, *inputs):
        return torch.func.functional_call(self.module, self.tensors, inputs)

    def __getitem__(self, index):
        return self.tensors[str(index)]


def test_attention_output_projection():
    attention = nn.MultiheadAttention(4, 2)
    cp.register_constrained_parameter(attention.out_proj, "weight", skew_exp)
    inputs = torch.rand(3, 2, 4)
    out = attention(inputs, inputs, inputs)[0]
    out.square().sum().backward()
    assert attention.out_proj._weight_unconstrained.grad.norm() > 0
    attention.eval()
    with torch.no_grad():
        equal(attention(inputs, inputs, inputs)[0], out)
    assert_fresh(attention.out_proj, skew_exp)


def test_transformer_layer_in_both_modes():
    """The fast path in eval reads the tensors of the attention without calling its forward."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    cp.register_constrained_parameter(layer.self_attn.out_proj, "weight", skew_exp)
    cp.register_constrained_parameter(layer.linear2, "weight", tanh_exp)
    inputs = torch.rand(2, 3, 4)
    for _ in range(2):
        out = layer.train()(inputs)
        layer.eval()
        with torch.no_grad():
            equal(layer(inputs), out, rtol=1e-10, atol=1e-11)
        out.square().sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()


def test_lstm_copies_and_moves():
    lstm = nn.LSTM(3, 4)
    cp.register_constrained_parameter(lstm, "weight_hh_l0", tanh_exp)
    inputs = torch.rand(5, 2, 3)
    out = lstm(inputs)[0]
    for copied in COPIES.values():
        twin = copied(lstm)
        equal(twin(inputs)[0], out)
        change(twin._weight_hh_l0_unconstrained)
        assert not torch.equal(twin(inputs)[0], out)
        equal(lstm(inputs)[0], out)
    lstm.float()
    equal(lstm(inputs.float())[0], out.float(), rtol=1e-4, atol=1e-5)
    lstm.flatten_parameters()
    lstm(inputs.float())


def test_a_shared_module_in_two_places():
    layer = constrained_linear()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    inputs = torch.rand(2, 4)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    q = skew_exp(x)
    (torch.tanh(inputs @ q.t()) @ q.t()).sin().sum().backward()
    model(inputs).sin().sum().backward()
    equal(layer._weight_unconstrained.grad, x.grad)


class Own(nn.Module):
    """A user's module that registers in __init__ and uses several constrained tensors."""

    def __init__(self, n=4):
        super().__init__()
        self.q = nn.Parameter(torch.rand(n, n))
        self.scale = nn.Parameter(torch.rand(n))
        cp.register_constrained_parameter(self, "q", skew_exp)
        cp.register_constrained_parameter(self, "scale", torch.tanh)
        self.later = nn.Linear(n, n)

    def forward(self, inputs):
        return self.later(inputs @ self.q * self.scale)


class Derived(Own):
    def __init__(self):
        super().__init__()
        self.more = nn.Parameter(torch.rand(3))
        cp.register_constrained_parameter(self, "more", tanh_exp)


@pytest.mark.parametrize("cls", [Own, Derived])
def test_a_users_own_module(cls):
    module = cls()
    assert isinstance(module, cls) and type(module) is type(cls())
    assert_fresh(module, skew_exp, "q")
    assert_fresh(module, torch.tanh, "scale")
    module(torch.rand(2, 4)).square().sum().backward()
    equal(module.q, naive(skew_exp, module._q_unconstrained)[0])
    torch.optim.Adam(module.parameters(), lr=0.1).step()
    assert_fresh(module, skew_exp, "q")
    for copied in COPIES.values():
        twin = copied(module)
        equal(twin.q, module.q)
        assert type(twin) is type(module)


def test_statically_sized_containers_find_it():
    model = nn.ModuleDict({"a": constrained_linear(), "b": nn.ModuleList([constrained_linear()])})
    assert sum(cp.is_constrained(m, "weight") for m in model.modules()) == 2
    assert "a._weight_unconstrained" in model.state_dict()
    assert "b.0._weight_unconstrained" in model.state_dict()
