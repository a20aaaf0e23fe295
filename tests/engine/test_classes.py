"""How a constrained tensor is attached: one class per base class, every module type, every copy."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    assert_fresh,
    change,
    constrained_linear,
    equal,
    loss_of,
    naive,
    skew_exp,
    tanh_exp,
    warm,
)


# The class ------------------------------------------------------------------------------------
def test_modules_of_one_class_share_the_generated_class():
    one, two = constrained_linear(), constrained_linear(tanh_exp, 7, bias=True)
    assert type(one) is type(two)
    assert isinstance(one, nn.Linear) and issubclass(type(one), nn.Linear)
    assert type(nn.Linear(2, 2)) is nn.Linear
    other = cp.register_constrained_parameter(nn.Linear(4, 4), "bias", torch.tanh)
    assert type(other) is not type(one)


def test_the_order_of_registration_does_not_make_another_class():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    for layer, names in ((one, ("weight", "bias")), (two, ("bias", "weight"))):
        for name in names:
            cp.register_constrained_parameter(layer, name, torch.tanh)
    assert type(one) is type(two)


def test_an_unconstrained_sibling_is_untouched():
    layer, plain = constrained_linear(), nn.Linear(4, 4)
    assert not hasattr(plain, "_weight_unconstrained")
    assert plain.weight is dict(plain.named_parameters())["weight"]
    assert layer.in_features == 4


def test_super_and_methods_of_the_base_work():
    class Mine(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + 1

        @property
        def rows(self):
            return self.weight.shape[0]

    layer = cp.register_constrained_parameter(Mine(4, 4), "weight", skew_exp)
    inputs = torch.rand(2, 4)
    equal(layer(inputs), inputs @ skew_exp(layer._weight_unconstrained).t() + layer.bias + 1)
    assert layer.rows == 4


def test_a_base_with_slots_like_attributes_and_getattr():
    class Forwarding(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.w = nn.Parameter(torch.rand(4, 4))

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

    module = cp.register_constrained_parameter(Forwarding(), "w", skew_exp)
    assert_fresh(module, skew_exp, "w")
    assert module.in_features == 4
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = module.nothing_like_it


def test_a_missing_attribute_is_still_an_attribute_error():
    layer = constrained_linear()
    with pytest.raises(AttributeError, match="wieght"):
        _ = layer.wieght
    assert not hasattr(layer, "wieght")
    assert hasattr(layer, "weight")


def test_repr_shows_the_set():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    text = repr(nn.Sequential(layer))
    assert "Linear" in text and "in_features=4" in text
    assert "weight" in text and "Orthogonal" in text
    plain = repr(cp.register_constrained_parameter(nn.Linear(4, 4), "weight", skew_exp))
    assert "skew_exp" in plain


def test_named_parameters_and_state_dict():
    layer = constrained_linear(bias=True)
    assert [n for n, _ in layer.named_parameters()] == ["_weight_unconstrained", "bias"]
    assert list(layer.state_dict()) == ["_weight_unconstrained", "bias"]
    assert all(type(t) is torch.Tensor for t in layer.state_dict().values())
    assert "weight" in dir(layer)


# Copies ---------------------------------------------------------------------------------------
def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch_save": saved,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("state", ["cold", "warm", "trained"])
def test_independent_copies(copied, state):
    layer = constrained_linear(bias=True)
    if state != "cold":
        warm(layer)
    if state == "trained":
        loss_of(layer.weight).backward()
        torch.optim.Adam(layer.parameters(), lr=0.1).step()
        _ = layer.weight
    twin = copied(layer)
    assert type(twin) is type(layer)
    equal(twin.weight, layer.weight)
    assert twin._weight_unconstrained is not layer._weight_unconstrained
    loss_of(twin.weight).backward()
    assert state == "trained" or layer._weight_unconstrained.grad is None
    change(twin._weight_unconstrained)
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)
    torch.optim.SGD(twin.parameters(), lr=0.1, fused=True).step()
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)
    twin._weight_unconstrained.data.mul_(0.5)
    assert_fresh(twin, skew_exp)


def test_deepcopy_keeps_the_sharing_inside():
    layer = constrained_linear()
    model = nn.Sequential(layer, layer)
    twin = copy.deepcopy(model)
    assert twin[0] is twin[1] and twin[0] is not layer
    assert_fresh(twin[0], skew_exp)


def test_shallow_copy_shares_x():
    layer = constrained_linear()
    warm(layer)
    twin = copy.copy(layer)
    assert twin._weight_unconstrained is layer._weight_unconstrained
    change(layer._weight_unconstrained)
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)


def test_copies_of_a_set_with_state():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    assert "_weight_base" in layer.state_dict()
    for copied in COPIES.values():
        twin = copied(layer)
        equal(twin.weight, layer.weight)
        assert cp.constraint_of(twin, "weight") == cp.Orthogonal()
    other = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    other.load_state_dict(layer.state_dict())
    equal(other.weight, layer.weight)


def test_another_process_reads_the_model(tmp_path):
    """Nothing in the pickle depends on what this process made."""
    torch.save(constrained_linear(torch.tanh, bias=True), tmp_path / "model.pt")
    program = (
        "import sys, torch\n"
        "model = torch.load(sys.argv[1], weights_only=False)\n"
        "x = model._weight_unconstrained.detach()\n"
        "assert torch.equal(model.weight.detach(), torch.tanh(x))\n"
        "model.weight.sum().backward()\n"
        "assert isinstance(model, torch.nn.Linear)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.pt")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_spawned_worker(tmp_path):
    """multiprocessing's spawn pickles the module and shares its tensors."""
    program = Path(__file__).with_name("spawned.py")
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Linear", "ok", "LSTM", "ok"]


# Module types -----------------------------------------------------------------------------------
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
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, fused=True)
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
