"""Rules that write: to x, to f, to y."""

import torch
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from . import pair
from .book import Book, flags, layers, seeds, settable
from .events import USES, WRITES, raises_constraint_error
from .pair import noise, raw

uses = st.sampled_from(sorted(USES))


class Writing(Book):
    @rule(layer=layers, how=st.sampled_from(sorted(WRITES)), number=seeds, read=flags)
    def write_x(self, layer, how, number, read):
        layer = self.known(layer)
        self.did(f"x {how}", layer)
        net, plain = self.of(layer)
        if read:
            with torch.no_grad():
                net.weight.sum()
        for x in (raw(net), plain.x):
            WRITES[how](x, noise(number))

    @rule(layer=layers, number=seeds)
    def replace_x(self, layer, number):
        layer = self.known(layer)
        self.did("x another parameter", layer)
        net, plain = self.of(layer)
        if self.plain.tied and layer == "b":
            self.untie()
        wants = plain.x.requires_grad
        net._weight_unconstrained = torch.nn.Parameter(noise(number), requires_grad=wants)
        plain.x = torch.nn.Parameter(noise(number), requires_grad=wants)
        self.optimisers = {}

    @rule(layer=layers, number=seeds)
    def swap_x(self, layer, number):
        """The same parameter object with other memory; its version counter comes along."""
        layer = self.known(layer)
        self.did("x swapped", layer)
        # torch refuses to swap a parameter that an old graph of another dtype still holds
        self.held = [pair for pair in self.held if pair[0] != layer]
        net, plain = self.of(layer)
        for x in (raw(net), plain.x):
            grad, wants = x.grad, x.requires_grad
            other = torch.nn.Parameter(noise(number), requires_grad=wants)
            torch.utils.swap_tensors(x, other)
            x.grad = grad

    @rule(number=seeds, where=st.sampled_from(("parameter", "parameter.data", "buffer")))
    def write_function(self, number, where):
        self.did(f"f {where}", "c")
        f, plain = self.net.c._weight_function, self.plain.c
        factor = 1 + 0.1 * torch.tanh(noise(number, 1)).item()
        with torch.no_grad():
            for sharpness, shift in ((f.sharpness, f.shift), (plain.sharpness, plain.shift)):
                if where == "buffer":
                    shift.mul_(factor)
                else:
                    (sharpness.data if where == "parameter.data" else sharpness).mul_(factor)

    @rule(layer=layers)
    def updated(self, layer):
        layer = self.known(layer)
        self.did("updated", layer)
        self.of(layer)[0].weight.updated()

    # writes to y ---------------------------------------------------------------------------------
    @rule(
        layer=settable,
        number=seeds,
        how=st.sampled_from(("in place", "data", "data assigned", "assignment", "parameter")),
        use=uses,
    )
    def set_y(self, layer, number, how, use):
        self.did(f"y {how}", layer)
        net, plain = self.of(layer)
        value = self.point(layer, number)
        if how == "assignment":
            net.weight = value
        elif how == "parameter":
            net.weight = torch.nn.Parameter(value)
        elif how == "data assigned":
            net.weight.data = value
        elif how == "data":
            net.weight.data.copy_(value)
        else:
            with torch.no_grad():
                net.weight.copy_(value)
        USES[use](net)  # a write in place reaches x at the next use
        plain.put(value)

    @rule(
        layer=layers, how=st.sampled_from(("in place", "grad mode", "assignment", "both")), use=uses
    )
    def set_y_wrongly(self, layer, how, use):
        layer, both = self.known(layer), how == "both"
        self.did(f"refused {how}", layer)
        net, plain = self.of(layer)
        with raises_constraint_error():
            if how == "assignment":
                net.weight = 9 + net.weight.detach()
            elif how == "grad mode" and plain.weight.requires_grad:
                net.weight.mul_(2.0)
            else:
                with torch.no_grad():
                    y = net.weight
                    y.add_(9.0)
                    for x in (raw(net), plain.x) if both else ():
                        x.add_(0.1)
            USES[use](net)

    @rule(layer=layers)
    def hold(self, layer):
        self.did("hold y")
        layer = self.known(layer)
        self.held.append((layer, self.of(layer)[0].weight))

    @precondition(lambda self: self.held)
    @rule()
    def write_held(self):
        layer, y = self.held.pop(0)
        self.did("write into held y", layer)
        self.held = [pair for pair in self.held if pair[1] is not y]
        with raises_constraint_error():
            with torch.no_grad():
                y.add_(9.0)
            self.of(layer)[0].weight.sum()

    def point(self, layer, number):
        """A value of y on the set."""
        plain = self.of(layer)[1]
        with torch.no_grad():
            return pair.rotation(number, plain.weight) if layer == "a" else plain.f(noise(number))
