"""What a history keeps of itself, and what is compared after each of its rules."""

from collections import Counter
from typing import ClassVar

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from torch.testing import assert_close

import constrainedparams as cp

from . import pair
from .pair import ALL, LAYERS, noise, ramp, raw

seeds = st.integers(0, 50)
layers = st.sampled_from(ALL)
settable = st.sampled_from(("a", "c"))
flags = st.booleans()


class Book(RuleBasedStateMachine):
    """``allowed``: evaluations of f that the present rule may cost each layer."""

    ran: ClassVar[Counter] = Counter()
    followed: ClassVar[Counter] = Counter()

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        net = pair.constrained()
        self.last, self.looks, self.saved = "start", 0, None
        self.adopt(net, pair.naive(net))

    def adopt(self, net, plain):
        """Another object goes on: nothing that was held belongs to it."""
        self.net, self.plain = net, plain
        self.optimisers, self.held = {}, []
        self.before = {k: self.count(k) for k in ALL}
        self.allowed = dict.fromkeys(ALL, 2)

    def did(self, label, *changed, changes=1):
        self.ran[label] += 1
        self.followed[self.last, label] += 1
        self.last = label
        for layer in changed:
            self.allowed[layer] += changes if self.net.training else 2 * changes

    def layers(self):
        """Those that are constrained now, each with an f of its own."""
        return ALL if self.plain.d.on else LAYERS

    def known(self, layer):
        """``layer``, or another one while d is a plain layer."""
        return layer if layer in self.layers() else "b"

    def count(self, layer):
        found = cp.statistics(self.net).get(f"{layer}.weight")
        return found.evaluations if found and layer in self.layers() else 0

    def of(self, layer):
        return getattr(self.net, layer), getattr(self.plain, layer)

    def inputs(self, layer):
        """x, and the parameter of f, of both networks."""
        net, plain = self.of(layer)
        if layer != "c":
            return [raw(net)], [plain.x]
        return [raw(net), net._weight_function.sharpness], [plain.x, plain.sharpness]

    def loss(self, number):
        return self.loss_of(self.net, number), self.loss_of(self.plain, number)

    def loss_of(self, net, number):
        return ramp(net(noise(number, 2, pair.N, size=1.0)))

    def backward(self, number):
        for loss in self.loss(number):
            if loss.requires_grad:
                loss.backward()

    def trained(self):
        """(tensors of the network, those of the naive one) that train, in the same order."""
        both = [(x, p) for _, x, p in pair.pairs(self.net, self.plain) if p.requires_grad]
        return [x for x, _ in both], [p for _, p in both]

    # comparing ----------------------------------------------------------------------------------
    def equal(self, got, want, rtol=1e-9, atol=1e-11):
        if want is None or got is None:
            assert got is want
            return
        got, want = got.detach().clone(), want.detach().clone()
        size = float(want.abs().max())  # an entry may be a difference of others as large as this
        assert_close(got, want, rtol=rtol, atol=atol * max(1.0, size))

    def all_equal(self, got, want, **tolerance):
        for g, w in zip(got, want, strict=True):
            self.equal(g, w, **tolerance)

    def compare_grads(self):
        for _, x, p in pair.pairs(self.net, self.plain):
            self.equal(x.grad, p.grad)

    def synchronise(self, grads=False):
        """What was just found equal becomes the same: rounding does not add up."""
        with torch.no_grad():
            for _, x, p in pair.pairs(self.net, self.plain):
                p.copy_(x.detach())
                if grads and p.grad is not None:
                    p.grad.copy_(x.grad)
            for _, x, p in pair.buffers(self.net, self.plain):
                p.copy_(x)

    @invariant()
    def all_is_as_without_a_cache(self):
        for _, x, p in pair.pairs(self.net, self.plain) + pair.buffers(self.net, self.plain):
            self.equal(x, p)
            assert x.requires_grad is p.requires_grad
        self.compare_grads()
        self.synchronise()
        self.looks += 1
        if self.looks % 2:
            self.compare_values()
        self.compare_derivatives()
        if self.looks % 3 == 0:
            self.compare_values()
        for layer in self.layers():
            spent = self.count(layer) - self.before[layer]
            assert spent <= self.allowed[layer], f"{layer}: {spent} evaluations after {self.last}"
        self.before = {k: self.count(k) for k in ALL}
        self.allowed = dict.fromkeys(ALL, 0)

    def compare_values(self):
        with torch.no_grad():
            for layer in self.layers():
                net, plain = self.of(layer)
                self.equal(net.weight, plain.weight)
            if self.plain.tied:
                assert self.net.d.weight is self.net.b.weight

    def compare_derivatives(self):
        for layer in self.layers():
            net, plain = self.of(layer)
            got, want = net.weight, plain.weight
            self.equal(got, want)
            assert got.requires_grad is want.requires_grad
            if want.requires_grad:
                inputs = [[t for t in tensors if t.requires_grad] for tensors in self.inputs(layer)]
                found = torch.autograd.grad(ramp(got), inputs[0])
                self.all_equal(found, torch.autograd.grad(ramp(want), inputs[1]))
