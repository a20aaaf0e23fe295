"""Rules that read y without changing it: modes, transforms, values that stand in for it."""

import torch
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch.func import functional_call, grad, jvp, vmap

import constrainedparams as cp

from . import pair
from .book import Book, flags, layers, seeds
from .pair import LAYERS, noise, ramp, raw
from .training import in_another_thread

X = [f"{k}._weight_unconstrained" for k in LAYERS], [f"{k}.x" for k in LAYERS]


class Reading(Book):
    @rule(mode=st.sampled_from(("no_grad", "inference", "autocast", "thread")))
    def read(self, mode):
        self.did(f"read {mode}")
        if mode == "thread":
            in_another_thread(self.compare_values)
            return
        modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
        with modes[mode]() if mode in modes else torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers():
                net, plain = self.of(layer)
                y = net.weight.clone()
                assert y.dtype is torch.float64
                with torch.autocast("cpu", enabled=False):
                    self.equal(y, plain.weight)

    @rule()
    def read_stale_in_eval(self):
        """x changed, and the first read is one without grad in eval mode."""
        self.did("read eval", *LAYERS, changes=2)
        for net in (self.net, self.plain):
            was = net.training
            net.eval()
            with torch.no_grad():
                for x in (raw(net.a), raw(net.b)) if net is self.net else (net.a.x, net.b.x):
                    x.add_(0.01)
        self.compare_values()
        for net in (self.net, self.plain):
            net.train(was)

    @rule(layer=layers, number=seeds, constrained=flags)
    def functional_call(self, layer, number, constrained):
        # another x, and back: two changes
        layer = self.known(layer)
        key = "weight" if constrained else "_weight_unconstrained"
        self.did(f"functional_call {key}", *([] if constrained else [layer]), changes=2)
        net, plain = self.of(layer)
        z = noise(number, 2, pair.N)
        given, beside = (noise(number).requires_grad_() for _ in range(2))
        loss = ramp(functional_call(net, {key: given}, (z,)))
        weight = beside if constrained else plain.f(beside)
        want = ramp(torch.nn.functional.linear(z, weight, plain.bias))
        self.equal(loss, want)
        self.equal(torch.autograd.grad(loss, given)[0], torch.autograd.grad(want, beside)[0])

    @rule(number=seeds, kind=st.sampled_from(("grad", "vmap", "per sample", "jvp")))
    def transform(self, number, kind):
        changed = LAYERS if kind != "vmap" else ()
        self.did(f"func.{kind}", *changed, changes=2)
        z, tangent = noise(number, 2, pair.N), noise(number + 1)
        found = []
        for net, names in zip((self.net, self.plain), X, strict=True):
            values = {k: v.detach() for k, v in net.named_parameters() if k in names}

            def loss(values, z, net=net):
                return ramp(functional_call(net, values, (z,)))

            if kind == "vmap":
                found.append([vmap(net)(z)])
            elif kind == "grad":
                found.append(list(grad(loss)(values, z).values()))
            elif kind == "per sample":
                found.append(list(vmap(grad(loss), (None, 0))(values, z).values()))
            else:
                tangents = dict.fromkeys(values, tangent)
                found.append(jvp(lambda v: loss(v, z), (values,), (tangents,)))
        self.all_equal(*found)

    @rule(layer=layers, number=seeds)
    def temporarily(self, layer, number):
        self.did("temporarily")
        net, plain = self.of(self.known(layer))
        z = noise(number, 2, pair.N)
        with cp.temporarily(net, "weight", noise(number)):
            self.equal(net(z), z @ noise(number).mT + plain.bias)

    @rule(number=seeds)
    def bake(self, number):
        self.did("bake")
        z = noise(number, 2, pair.N)
        baked = cp.bake(self.net)
        assert not cp.is_constrained(baked)
        with torch.no_grad():
            self.equal(baked(z), self.plain(z))
