"""Rules of daily life: freezing, train and eval, checkpoints, copies, casts, registration."""

import copy
import io
import pickle

import torch
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close

import constrainedparams as cp

from . import pair
from .book import Book, flags, layers, seeds, settable
from .pair import ALL, LAYERS, bend, raw


class Daily(Book):
    @rule(layer=layers, wants=flags, through_y=flags)
    def freeze(self, layer, wants, through_y):
        layer = self.known(layer)
        self.did("freeze", layer)
        net, plain = self.of(layer)
        (net.weight if through_y else raw(net)).requires_grad_(wants)
        plain.x.requires_grad_(wants)

    @rule(wants=flags)
    def freeze_function(self, wants):
        self.did("freeze f", "c")
        self.net.c._weight_function.sharpness.requires_grad_(wants)
        self.plain.c.sharpness.requires_grad_(wants)

    @rule(mode=flags)
    def train(self, mode):
        self.net.train(mode)
        self.plain.train(mode)
        self.did("train/eval", "c", changes=2)

    # checkpoints ---------------------------------------------------------------------------------
    @rule()
    def save(self):
        self.did("save")
        found = cp.plain_state_dict(self.net)
        for layer in self.layers():
            self.equal(found[f"{layer}.weight"], self.of(layer)[1].weight)
        if not self.plain.tied:
            self.store()

    def store(self):
        self.saved = []
        for net in (self.net, self.plain):
            file = io.BytesIO()
            torch.save(net.state_dict(), file)
            self.saved.append(file)

    @precondition(lambda self: not self.plain.tied)
    @rule(assign=flags)
    def load(self, assign):
        """What was saved last, since layers were tied or registered, or else a moment ago."""
        self.did(f"load {'assign' if assign else 'copy'}", *self.layers())
        if not self.saved:
            self.store()
        for net, file in zip((self.net, self.plain), self.saved, strict=True):
            file.seek(0)
            net.load_state_dict(torch.load(file, weights_only=True), assign=assign)
        if assign:
            self.optimisers = {}

    @rule(layer=settable, number=seeds)
    def load_plain(self, layer, number):
        self.did("load plain", layer)
        net, plain = self.of(layer)
        value = self.point(layer, number)
        net.load_state_dict({"weight": value, "bias": net.bias.detach().clone()})
        plain.put(value)

    @rule()
    def retract(self):
        """The present value becomes the base of the exponential; nothing else has coordinates."""
        self.did("retract", "a")
        cp.retract(self.net)
        self.plain.a.put(self.plain.a.weight.detach())

    # copies --------------------------------------------------------------------------------------
    @rule(number=seeds, go_on=flags)
    def deepcopy(self, number, go_on):
        """The copy trains; the original stays as it was; either goes on."""
        self.did("deepcopy")
        kept = [x.detach().clone() for _, x, _ in pair.pairs(self.net, self.plain)]
        values = [getattr(self.net, k).weight.detach().clone() for k in self.layers()]
        other = type(self)()
        other.adopt(*copy.deepcopy((self.net, self.plain)))
        other.last = "copied"
        other.all_is_as_without_a_cache()
        other.backward(number)
        other.compare_grads()
        other.synchronise(grads=True)
        for optimiser, tensors in zip(
            other.pair_of_optimisers("sgd fused"), other.trained(), strict=True
        ):
            clip_grad_norm_(tensors, 1.0)
            optimiser.step()
        other.allowed = dict.fromkeys(ALL, 2)
        other.all_is_as_without_a_cache()
        for old, (_, x, _) in zip(kept, pair.pairs(self.net, self.plain), strict=True):
            assert torch.equal(x, old)
        for layer, old in zip(self.layers(), values, strict=True):
            assert torch.equal(self.of(layer)[0].weight.detach(), old)
        if go_on:
            self.adopt(other.net, other.plain)

    @rule()
    def pickle(self):
        self.did("pickle")
        self.adopt(*pickle.loads(pickle.dumps((self.net, self.plain))))

    @rule(how=st.sampled_from(("float", "to float32", "to float64")))
    def cast(self, how):
        self.did(f"cast {how}", *self.layers())
        for net in (self.net, self.plain):
            if how == "to float64":
                net.to(torch.float64)
            elif how == "to float32":
                net.to(dtype=torch.float32).to("cpu", torch.float64)
            else:
                net.float().double()
        self.net.a.weight.sum()  # the base point, rounded, goes back on the set at the next read
        base = self.net.a._weight_base
        assert_close(base, self.plain.a.base, rtol=0, atol=1e-6)
        assert_close(base.mT @ base, torch.eye(pair.N, dtype=base.dtype), rtol=0, atol=1e-13)
        self.plain.a.base.copy_(base)

    # registration --------------------------------------------------------------------------------
    @rule(layer=st.sampled_from(LAYERS), keep=st.sampled_from(("constrained", "unconstrained")))
    def remove_and_register(self, layer, keep):
        if layer == "b" and self.plain.tied:
            self.untie()
        net, plain = self.of(layer)
        keep = "constrained" if layer != "b" else keep
        self.did(f"remove {keep}")
        function = cp.constraint_of(net, "weight")
        value = (plain.weight if keep == "constrained" else plain.x).detach().clone()
        cp.remove_constrained_parameter(net, "weight", keep=keep)
        assert type(net) is torch.nn.Linear
        self.equal(net.weight, value)
        plain.x.grad = None
        cp.register_constrained_parameter(net, "weight", function)
        if layer == "b":
            with torch.no_grad():
                plain.x.copy_(value)
        else:
            plain.put(value)
        self.held = [pair for pair in self.held if pair[0] != layer]
        self.before[layer] = 0
        self.allowed[layer] = 2

    @precondition(lambda self: not self.plain.tied and not self.plain.d.on)
    @rule()
    def register(self):
        """A plain layer becomes constrained; optimisers made before keep working."""
        self.did("register")
        cp.register_constrained_parameter(self.net.d, "weight", bend)
        self.plain.d.on, self.plain.d.x.grad, self.saved = True, None, None
        self.before["d"], self.allowed["d"] = 0, 2

    @precondition(lambda self: self.plain.d.on)
    @rule(keep=st.sampled_from(("constrained", "unconstrained")))
    def remove(self, keep):
        """... and plain again."""
        self.did("remove")
        d = self.plain.d
        cp.remove_constrained_parameter(self.net.d, "weight", keep=keep)
        with torch.no_grad():
            d.x.copy_(d.weight if keep == "constrained" else d.x)
        d.on, d.x.grad, self.saved = False, None, None
        self.held = [pair for pair in self.held if pair[0] != "d"]

    @precondition(lambda self: not self.plain.tied and not self.plain.d.on)
    @rule()
    def share(self):
        self.did("share", "b")
        cp.share_constrained_parameter(self.net.b, "weight", self.net.d)
        self.plain.tied, self.optimisers = True, {}

    @precondition(lambda self: self.plain.tied)
    @rule()
    def untie(self):
        self.did("untie", "b")
        cp.remove_constrained_parameter(self.net.d, "weight")
        plain = self.plain
        wants = plain.b.x.requires_grad
        plain.d.x = torch.nn.Parameter(plain.b.weight.detach().clone(), requires_grad=wants)
        plain.tied, self.optimisers, self.saved = False, {}, None
