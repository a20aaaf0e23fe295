"""Models for the tools, functions with and without right inverse, and the state they must keep."""

import torch
from torch import nn

import constrainedparams as cp


def tanh(x):
    """(*s) -> (*s), without right inverse."""
    return torch.tanh(x)


class Packed:
    """(n (n + 1) / 2,) -> symmetric (n, n): x has another shape than y."""

    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        row, column = torch.triu_indices(self.n, self.n)
        upper = x.new_zeros(self.n, self.n).index_put((row, column), x)
        return upper + upper.triu(1).mT

    def right_inverse(self, y):
        row, column = torch.triu_indices(self.n, self.n)
        return y[row, column]


class Softened(nn.Module):
    """(*s) -> (*s), with a parameter and a buffer of its own that counts evaluations."""

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.sharpness * x) / self.sharpness


class Noisy:
    """Random f: one draw per change of x."""

    def __call__(self, x):
        return x + torch.randn(x.shape)


class Block(nn.Module):
    """What a transformer layer is made of, small."""

    def __init__(self, n=4):
        super().__init__()
        self.inner = nn.Linear(n, n)
        self.norm = nn.LayerNorm(n)

    def forward(self, h):
        return self.norm(h + torch.tanh(self.inner(h)))


class Net(nn.Module):
    """Names: embed.weight, encoder.{0,1}.{inner,norm}.{weight,bias}, head.{weight,bias}, scale."""

    def __init__(self, n=4):
        super().__init__()
        self.embed = nn.Embedding(6, n)
        self.encoder = nn.Sequential(Block(n), Block(n))
        self.head = nn.Linear(n, 3)
        self.scale = nn.Parameter(torch.rand(3))

    def forward(self, words):
        return self.scale * self.head(self.encoder(self.embed(words)).mean(-2))


WORDS = torch.tensor([[0, 3, 5], [1, 1, 2]])
PATTERNS = {
    "encoder.*.inner.weight": cp.Orthogonal(),
    "embed.weight": cp.Sphere(),
    "scale": cp.Positive(),
    "head.bias": tanh,
}


def constrained_net():
    model = Net()
    cp.register_constrained_parameters(model, PATTERNS)
    return model


def values(model):
    """All that a model is: classes, attributes, tensors with their identity, class and value."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {
        "classes": [type(m) for m in model.modules()],
        "attributes": [list(vars(m)) for m in model.modules()],
        "modules": [(n, id(m)) for n, m in model.named_modules(remove_duplicate=False)],
        "tensors": [(n, id(t), type(t), t._version, t.requires_grad) for n, t in tensors],
        "numbers": [t.detach().clone() for _, t in tensors],
        "grads": [None if t.grad is None else t.grad.clone() for t in model.parameters()],
        "counts": cp.statistics(model),
        "random": torch.random.get_rng_state(),
    }


def assert_same(model, before):
    after = values(model)
    for key in ("classes", "attributes", "modules", "tensors", "counts"):
        assert after[key] == before[key], key
    assert torch.equal(after["random"], before["random"])
    for key in ("numbers", "grads"):
        assert len(after[key]) == len(before[key])
        for one, two in zip(after[key], before[key], strict=True):
            assert one is two is None or torch.equal(one, two), key
