"""The naive model, in which f runs inline at each forward, and the table of modules to train."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02),
}


# Functions, of any shape and with a derivative that is nowhere constant ----------------------------
def bounded(x):
    """(*s) -> (*s)"""
    return torch.tanh(x) + 0.1 * torch.exp(x)


def orthogonal(x):
    """(n, n) -> (n, n): the exponential of a skew-symmetric matrix."""
    upper = x.triu(diagonal=1)
    return torch.matrix_exp(upper - upper.t())


class Shifted:
    """(*s) -> (*s), one to one onto the space: any value can be written."""

    def __call__(self, x):
        return torch.sinh(x) + 0.5

    def right_inverse(self, y):
        return torch.asinh(y - 0.5)


class Scaled(nn.Module):
    """(*s) -> (*s): an f that has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.tanh(self.scale * x)


# Naming ------------------------------------------------------------------------------------------
def owner(model, path):
    """The module and the name that a qualified name stands for."""
    prefix, _, name = path.rpartition(".")
    return model.get_submodule(prefix), name


def constrain(model, functions, **options):
    """Register every function under its qualified name."""
    for path, f in functions.items():
        module, name = owner(model, path)
        cp.register_constrained_parameter(module, name, f, **options)
    return model


def x_of(model, path):
    module, name = owner(model, path)
    return getattr(module, f"_{name}_unconstrained")


def y_of(model, path):
    module, name = owner(model, path)
    return getattr(module, name)


def value(tensor):
    """What is in ``tensor`` now, as a plain tensor of its own."""
    return tensor.detach().clone()


def equal(got, want):
    assert_close(value(got), value(want), rtol=1e-11, atol=1e-12)


# The naive model ---------------------------------------------------------------------------------
class Naive:
    """The plain module called with f(x) in place of its weights: shares no code with the engine.

    Made before anything is registered on ``module``, from callables without a right inverse: their x
    is the parameter that was there.
    """

    def __init__(self, module, functions):
        self.module = copy.deepcopy(module)
        self.functions = functions
        self.leaves = {
            n: p.detach().clone().requires_grad_(p.requires_grad)
            for n, p in module.named_parameters()
        }

    def tensors(self):
        return {n: self.functions.get(n, _same)(x) for n, x in self.leaves.items()}

    def __call__(self, *inputs, **options):
        return torch.func.functional_call(self.module, self.tensors(), inputs, options)

    def train(self, mode=True):
        self.module.train(mode)
        return self

    def parameters(self):
        return list(self.leaves.values())

    def assert_same(self, model):
        """All unconstrained tensors and gradients of ``model``, and its buffers, are those here."""
        for n, leaf in self.leaves.items():
            p = x_of(model, n) if n in self.functions else model.get_parameter(n)
            equal(p, leaf)
            assert (p.grad is None) == (leaf.grad is None), n
            if p.grad is not None:
                equal(p.grad, leaf.grad)
        own = dict(self.module.named_buffers())
        assert own.keys() == dict(model.named_buffers()).keys()
        for n, b in model.named_buffers():
            equal(b, own[n])


def _same(x):
    return x


# Training ----------------------------------------------------------------------------------------
def loss_of(out):
    """A number that depends on all that a module returns, differently on each entry."""
    if isinstance(out, tuple | list):
        return sum(loss_of(part) for part in out if part is not None)
    ramp = torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape)
    return (out * (out + ramp)).sin().mean()


def accumulate(model, call, seeds):
    """Backward of one micro-batch per seed; the losses."""
    losses = []
    for seed in seeds:
        torch.manual_seed(seed)
        loss = loss_of(call(model)) / len(seeds)
        loss.backward()
        losses.append(loss.detach())
    return losses


def train(model, call, optimizer, steps=range(3), micro=2):
    """A few steps of ``micro`` accumulated batches; all losses."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        losses += accumulate(model, call, [10 * step + k for k in range(micro)])
        optimizer.step()
    return torch.stack(losses)


# Modules -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """A module, what is constrained in it, and how it is called (with inputs drawn in the call)."""

    make: Any
    functions: dict
    call: Any

    def pair(self):
        """The constrained module and the naive model, from the same start."""
        torch.manual_seed(1)
        module = self.make()
        naive = Naive(module, self.functions)
        return constrain(module, self.functions), naive


def on(*shape, **options):
    """A call with one input of this shape."""
    return lambda m: m(torch.randn(*shape), **options)


def tokens(m):
    return m(torch.randint(0, 7, (3, 4)))


def sequence(m):
    return m(torch.randn(5, 2, 3))


def cell(m):
    return m(torch.randn(2, 3), torch.randn(2, 4))


def lstm_cell(m):
    return m(torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4)))


def attend(m):
    return m(*torch.randn(3, 4, 2, 8).unbind(0))


def cross(m):
    return m(torch.randn(4, 2, 8), torch.randn(5, 2, 6), torch.randn(5, 2, 7))


def every_weight(make):
    """All matrices of a recurrent module."""
    return {n: bounded for n, p in make().named_parameters() if p.ndim == 2}


def recurrent(make):
    return Row(make, every_weight(make), sequence)


def encoder_layer():
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


ENCODER = {
    "self_attn.in_proj_weight": bounded,
    "self_attn.out_proj.weight": orthogonal,
    "linear1.weight": bounded,
    "norm1.weight": torch.exp,
}


def encoder():
    return nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)


ROWS = {
    "linear": Row(lambda: nn.Linear(4, 4), {"weight": orthogonal}, on(3, 4)),
    "linear_both": Row(lambda: nn.Linear(4, 3), {"weight": bounded, "bias": torch.tanh}, on(3, 4)),
    "conv1d": Row(lambda: nn.Conv1d(2, 3, 2), {"weight": bounded}, on(2, 2, 5)),
    "conv2d": Row(lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2), {"weight": bounded}, on(2, 4, 5, 5)),
    "conv3d": Row(lambda: nn.Conv3d(1, 2, 2), {"weight": bounded}, on(2, 1, 3, 3, 3)),
    "transposed1d": Row(lambda: nn.ConvTranspose1d(2, 3, 2, stride=2), {"weight": bounded}, on(2, 2, 5)),
    "transposed2d": Row(lambda: nn.ConvTranspose2d(2, 3, 2, output_padding=1, stride=2), {"weight": bounded}, on(2, 2, 4, 4)),
    "embedding": Row(lambda: nn.Embedding(7, 3), {"weight": bounded}, tokens),
    "embedding_padding": Row(lambda: nn.Embedding(7, 3, padding_idx=1), {"weight": bounded}, tokens),
    "embedding_by_frequency": Row(lambda: nn.Embedding(7, 3, scale_grad_by_freq=True), {"weight": bounded}, tokens),
    "bag": Row(lambda: nn.EmbeddingBag(7, 3, mode="mean"), {"weight": bounded}, tokens),
    "bag_max": Row(lambda: nn.EmbeddingBag(7, 3, mode="max", padding_idx=0), {"weight": bounded}, tokens),
    "bilinear": Row(lambda: nn.Bilinear(2, 3, 4), {"weight": bounded}, lambda m: m(torch.randn(5, 2), torch.randn(5, 3))),
    "rnn": recurrent(lambda: nn.RNN(3, 4)),
    "rnn_relu": recurrent(lambda: nn.RNN(3, 4, nonlinearity="relu", bias=False)),
    "gru": recurrent(lambda: nn.GRU(3, 4, num_layers=2)),
    "lstm": recurrent(lambda: nn.LSTM(3, 4)),
    "lstm_deep": recurrent(lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True)),
    "lstm_projected": recurrent(lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)),
    "lstm_one_of_many": Row(lambda: nn.LSTM(3, 4, num_layers=2), {"weight_hh_l1": bounded, "bias_ih_l0": torch.tanh}, sequence),
    "rnn_cell": Row(lambda: nn.RNNCell(3, 4), {"weight_hh": orthogonal, "weight_ih": bounded}, cell),
    "lstm_cell": Row(lambda: nn.LSTMCell(3, 4), {"weight_hh": bounded, "weight_ih": bounded}, lstm_cell),
    "gru_cell": Row(lambda: nn.GRUCell(3, 4), {"weight_hh": bounded, "bias_hh": torch.tanh}, cell),
    "attention": Row(lambda: nn.MultiheadAttention(8, 2), {"in_proj_weight": bounded, "out_proj.weight": orthogonal}, attend),
    "attention_split": Row(lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=7, add_bias_kv=True), {"q_proj_weight": orthogonal, "k_proj_weight": bounded, "bias_k": torch.tanh}, cross),
    "encoder": Row(encoder, {f"layers.{i}.{n}": f for i in range(2) for n, f in ENCODER.items()}, on(2, 5, 8)),
    "decoder_layer": Row(lambda: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.1), {"multihead_attn.in_proj_weight": bounded, "linear2.weight": bounded}, lambda m: m(torch.randn(4, 2, 8), torch.randn(5, 2, 8))),
    "batchnorm": Row(lambda: nn.BatchNorm1d(4), {"weight": torch.exp, "bias": torch.tanh}, on(6, 4)),
    "layernorm": Row(lambda: nn.LayerNorm((2, 3)), {"weight": torch.exp}, on(4, 2, 3)),
    "groupnorm": Row(lambda: nn.GroupNorm(2, 4), {"weight": torch.exp}, on(3, 4, 2)),
    "prelu": Row(lambda: nn.PReLU(3), {"weight": torch.sigmoid}, on(5, 3)),
    "sequential": Row(lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 4)), {"0.weight": bounded, "2.weight": orthogonal}, on(5, 3)),
}  # fmt: skip
