"""Random histories of a constrained network, compared after every event with the naive network.

The naive one (``pair.py``) runs f inline at every use and caches nothing. After each rule every y is
f(x), every gradient is the naive one, and ``statistics`` counts at most one evaluation per change.
``make test`` runs a fixed set of histories; ``make fuzz FUZZ_SECONDS=3600`` draws new ones, prints
which pairs of rules followed each other, and shrinks what fails.
"""

import copy
import os
import pickle
import time
from collections import Counter
from typing import ClassVar

import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import constrainedparams as cp

from . import pair
from .events import OPTIMISERS, USES, WRITES, raises_constraint_error
from .pair import LAYERS, noise, ramp, raw

seeds = st.integers(0, 50)
layers = st.sampled_from(LAYERS)
settable = st.sampled_from(("a", "c"))
flags = st.booleans()
uses = st.sampled_from(sorted(USES))


class Machine(RuleBasedStateMachine):
    """One history. ``allowed``: evaluations of f that the present rule may cost each layer."""

    ran: ClassVar[Counter] = Counter()
    followed: ClassVar[Counter] = Counter()

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = pair.constrained()
        self.plain = pair.naive(self.net)
        self.last, self.looks = "start", 0
        self.optimisers, self.held, self.saved = {}, [], None
        self.adopt(self.net, self.plain)

    # book-keeping -------------------------------------------------------------------------------
    def adopt(self, net, plain):
        """Another object goes on: nothing that was held belongs to it."""
        self.net, self.plain = net, plain
        self.optimisers, self.held = {}, []
        self.before = {k: self.count(k) for k in LAYERS}
        self.allowed = dict.fromkeys(LAYERS, 2)

    def count(self, layer):
        return cp.statistics(self.net)[f"{layer}.weight"].evaluations

    def did(self, label, *changed, changes=1):
        self.ran[label] += 1
        self.followed[self.last, label] += 1
        self.last = label
        for layer in changed:
            self.allowed[layer] += changes if self.net.training else 2 * changes

    def of(self, layer):
        return getattr(self.net, layer), getattr(self.plain, layer)

    def loss(self, number):
        z = noise(number, 2, pair.N, size=1.0)
        return ramp(self.net(z)), ramp(self.plain(z))

    def backward(self, number):
        for loss in self.loss(number):
            if loss.requires_grad:
                loss.backward()

    def equal(self, got, want):
        if want is None or got is None:
            assert got is want
            return
        assert_close(got.detach().clone(), want.detach().clone(), rtol=1e-9, atol=1e-11)

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
        for layer in LAYERS:
            spent = self.count(layer) - self.before[layer]
            assert spent <= self.allowed[layer], f"{layer}: {spent} evaluations after {self.last}"
        self.before = {k: self.count(k) for k in LAYERS}
        self.allowed = dict.fromkeys(LAYERS, 0)

    def compare_values(self):
        with torch.no_grad():
            for layer in LAYERS:
                net, plain = self.of(layer)
                self.equal(net.weight, plain.weight)
            if self.plain.tied:
                assert self.net.d.weight is self.net.b.weight

    def compare_derivatives(self):
        for layer in LAYERS:
            net, plain = self.of(layer)
            got, want = net.weight, plain.weight
            self.equal(got, want)
            assert got.requires_grad is want.requires_grad
            if want.requires_grad:
                inputs = [[t for t in tensors if t.requires_grad] for tensors in self.inputs(layer)]
                found = torch.autograd.grad(ramp(got), inputs[0])
                for g, w in zip(found, torch.autograd.grad(ramp(want), inputs[1]), strict=True):
                    self.equal(g, w)

    def inputs(self, layer):
        """x, and the parameter of f, of both networks."""
        net, plain = self.of(layer)
        if layer != "c":
            return [raw(net)], [plain.x]
        return [raw(net), net._weight_function.sharpness], [plain.x, plain.sharpness]

    # training -----------------------------------------------------------------------------------
    @rule(number=seeds, passes=st.integers(1, 2))
    def accumulate(self, number, passes):
        self.did("backward")
        before = cp.statistics(self.net)
        for i in range(passes):
            self.backward(number + i)
        for layer in LAYERS:
            spent = cp.statistics(self.net)[f"{layer}.weight"].pullbacks
            assert spent - before[f"{layer}.weight"].pullbacks <= passes

    @rule(to_none=flags)
    def zero_grad(self, to_none):
        self.did("zero_grad")
        self.net.zero_grad(set_to_none=to_none)
        self.plain.zero_grad(set_to_none=to_none)

    @rule(kind=st.sampled_from(sorted(OPTIMISERS)), number=seeds, fresh=flags)
    def optimise(self, kind, number, fresh):
        self.did(f"step {kind}", *LAYERS)
        if fresh:
            self.net.zero_grad()
            self.plain.zero_grad()
        self.backward(number)
        self.compare_grads()
        self.synchronise(grads=True)
        if kind not in self.optimisers:
            named = [(x, p) for _, x, p in pair.pairs(self.net, self.plain)]
            named = [(x, p) for x, p in named if kind != "muon" or x.ndim == 2]
            both = zip(*named, strict=True)
            self.optimisers[kind] = [OPTIMISERS[kind](list(side)) for side in both]
        for optimiser in self.optimisers[kind]:
            optimiser.step()

    @rule(number=seeds)
    def lbfgs(self, number):
        both = zip(*[(x, p) for _, x, p in pair.pairs(self.net, self.plain)], strict=True)
        calls = []
        for side, parameters in enumerate(both):
            if not any(p.requires_grad for p in parameters):
                return
            optimiser = torch.optim.LBFGS(list(parameters), lr=0.02, max_iter=3)

            def closure():
                calls.append(side)
                optimiser.zero_grad()
                loss = self.loss(number)[side]
                loss.backward()
                return loss

            optimiser.step(closure)
        self.did("step lbfgs", *LAYERS, changes=1 + calls.count(0) + calls.count(1))

    # writes to x ---------------------------------------------------------------------------------
    @rule(layer=layers, how=st.sampled_from(sorted(WRITES)), number=seeds, read=flags)
    def write_x(self, layer, how, number, read):
        self.did(f"x {how}", layer)
        net, plain = self.of(layer)
        if read:
            with torch.no_grad():
                net.weight.sum()
        for x in (raw(net), plain.x):
            WRITES[how](x, noise(number))

    @rule(layer=layers, number=seeds)
    def replace_x(self, layer, number):
        self.did("x another parameter", layer)
        net, plain = self.of(layer)
        if self.plain.tied and layer == "b":
            self.untie()
        wants = plain.x.requires_grad
        net._weight_unconstrained = torch.nn.Parameter(noise(number), requires_grad=wants)
        plain.x = torch.nn.Parameter(noise(number), requires_grad=wants)
        self.optimisers = {}

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
        self.did("updated", layer)
        self.of(layer)[0].weight.updated()

    # writes to y ---------------------------------------------------------------------------------
    def point(self, layer, number):
        """A value of y on the set."""
        plain = self.of(layer)[1]
        with torch.no_grad():
            return pair.rotation(number, plain.weight) if layer == "a" else plain.f(noise(number))

    @rule(
        layer=settable,
        number=seeds,
        how=st.sampled_from(("in place", "data", "assignment")),
        use=uses,
    )
    def set_y(self, layer, number, how, use):
        self.did(f"y {how}", layer)
        net, plain = self.of(layer)
        value = self.point(layer, number)
        if how == "assignment":
            net.weight = value
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
        both = how == "both"
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

    # reads ---------------------------------------------------------------------------------------
    @rule(mode=st.sampled_from(("no_grad", "inference", "autocast")), number=seeds)
    def read(self, mode, number):
        self.did(f"read {mode}")
        modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
        within = modes[mode]() if mode in modes else torch.autocast("cpu", torch.bfloat16)
        with within:
            for layer in LAYERS:
                net, plain = self.of(layer)
                y = net.weight.clone()
                assert y.dtype is torch.float64
                with torch.autocast("cpu", enabled=False):
                    self.equal(y, plain.weight)

    @rule(number=seeds)
    def read_stale_in_eval(self, number):
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

    @rule(number=seeds)
    def second_derivative(self, number):
        self.did("create_graph")
        found = []
        for loss, side in zip(self.loss(number), (1, 2), strict=True):
            tensors = [t[side] for t in pair.pairs(self.net, self.plain)]
            tensors = [t for t in tensors if t.requires_grad]
            first = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
            total = sum(ramp(g) for g in first if g is not None)
            found.append(torch.autograd.grad(total, tensors, allow_unused=True))
        for got, want in zip(*found, strict=True):
            self.equal(got, want)

    @rule(layer=layers, number=seeds)
    def retain_grad(self, layer, number):
        self.did("retain_grad")
        net, plain = self.of(layer)
        if plain.weight.requires_grad:
            y, want = net.weight, plain.weight
            y.retain_grad()
            y.grad = None
            want.retain_grad()
            (ramp(y) * number).backward()
            (ramp(want) * number).backward()
            self.equal(y.grad, want.grad)

    # the rest of the library ---------------------------------------------------------------------
    @rule(layer=layers, wants=flags, through_y=flags)
    def freeze(self, layer, wants, through_y):
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

    @rule()
    def save(self):
        self.did("save")
        found = cp.plain_state_dict(self.net)
        for layer in LAYERS:
            self.equal(found[f"{layer}.weight"], self.of(layer)[1].weight)
        if not self.plain.tied:
            both = (self.net, self.plain)
            self.saved = [copy.deepcopy(net.state_dict()) for net in both]

    @precondition(lambda self: self.saved and not self.plain.tied)
    @rule()
    def load(self):
        self.did("load", *LAYERS)
        self.net.load_state_dict(self.saved[0])
        self.plain.load_state_dict(self.saved[1])

    @rule(layer=settable, number=seeds)
    def load_plain(self, layer, number):
        self.did("load plain", layer)
        net, plain = self.of(layer)
        value = self.point(layer, number)
        net.load_state_dict({"weight": value, "bias": net.bias.detach().clone()})
        plain.put(value)

    @rule(number=seeds, go_on=flags)
    def deepcopy(self, number, go_on):
        self.did("deepcopy")
        kept = [x.detach().clone() for _, x, _ in pair.pairs(self.net, self.plain)]
        values = [getattr(self.net, k).weight.detach().clone() for k in LAYERS]
        other = Machine()
        other.adopt(*copy.deepcopy((self.net, self.plain)))
        other.last = "copied"
        other.all_is_as_without_a_cache()
        other.backward(number)
        with torch.no_grad():
            for _, x, p in pair.pairs(other.net, other.plain):
                if x.grad is not None:
                    x.sub_(0.05 * x.grad)
                    p.sub_(0.05 * p.grad)
        other.allowed = dict.fromkeys(LAYERS, 2)
        other.all_is_as_without_a_cache()
        for old, (_, x, _) in zip(kept, pair.pairs(self.net, self.plain), strict=True):
            assert torch.equal(x, old)
        for layer, old in zip(LAYERS, values, strict=True):
            assert torch.equal(self.of(layer)[0].weight.detach(), old)
        if go_on:
            self.adopt(other.net, other.plain)

    @rule()
    def pickle(self):
        self.did("pickle")
        self.adopt(*pickle.loads(pickle.dumps((self.net, self.plain))))

    @rule(how=st.sampled_from(("float", "to")))
    def cast(self, how):
        self.did(f"cast {how}", *LAYERS)
        for net in (self.net, self.plain):
            if how == "to":
                net.to(torch.float64)
            else:
                net.float().double()
        self.net.a.weight.sum()  # the base point, rounded, goes back on the set at the next read
        base = self.net.a._weight_base
        assert_close(base, self.plain.a.base, rtol=0, atol=1e-6)
        assert_close(base.mT @ base, torch.eye(pair.N, dtype=base.dtype), rtol=0, atol=1e-13)
        self.plain.a.base.copy_(base)

    @rule(layer=layers, keep=st.sampled_from(("constrained", "unconstrained")), number=seeds)
    def remove_and_register(self, layer, keep, number):
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
        self.optimisers = {}
        self.held = [pair for pair in self.held if pair[0] != layer]
        self.before[layer] = 0
        self.allowed[layer] = 2

    @rule()
    def share(self):
        if self.plain.tied:
            self.untie()
            return
        self.did("share", "b")
        cp.share_constrained_parameter(self.net.b, "weight", self.net.d)
        self.plain.tied, self.optimisers = True, {}

    def untie(self):
        self.did("untie", "b")
        cp.remove_constrained_parameter(self.net.d, "weight")
        plain = self.plain
        wants = plain.b.x.requires_grad
        plain.d.x = torch.nn.Parameter(plain.b.weight.detach().clone(), requires_grad=wants)
        plain.tied, self.optimisers, self.saved = False, {}, None

    @rule(layer=layers, number=seeds, constrained=flags)
    def functional_call(self, layer, number, constrained):
        # another x, and back: two changes
        self.did("functional_call", *([] if constrained else [layer]), changes=2)
        net, plain = self.of(layer)
        z, key = noise(number, 2, pair.N), "weight" if constrained else "_weight_unconstrained"
        given, beside = (noise(number).requires_grad_() for _ in range(2))
        loss = ramp(torch.func.functional_call(net, {key: given}, (z,)))
        weight = beside if constrained else plain.f(beside)
        want = ramp(torch.nn.functional.linear(z, weight, plain.bias))
        self.equal(loss, want)
        self.equal(torch.autograd.grad(loss, given)[0], torch.autograd.grad(want, beside)[0])

    @rule(number=seeds, reentrant=flags)
    def checkpointed(self, number, reentrant):
        self.did(f"checkpoint {'reentrant' if reentrant else 'saved tensors'}")
        for net in (self.net, self.plain):
            z = noise(number, 2, pair.N).requires_grad_()
            ramp(checkpoint(net, z, use_reentrant=reentrant)).backward()

    @rule(number=seeds, passes=st.integers(1, 3), discard=flags)
    def deferred(self, number, passes, discard):
        self.did(f"deferred {'discarded' if discard else 'folded'}")
        before = [p.grad for p in self.plain.parameters()]
        before = [None if g is None else g.clone() for g in before]
        counts = cp.statistics(self.net)
        block = cp.deferred_pullback(self.net)
        for i in range(passes):
            with block:
                self.backward(number + i)
        if discard:
            block.discard()
            constrained = {id(t) for k in LAYERS for t in self.inputs(k)[1]}
            for p, grad in zip(self.plain.parameters(), before, strict=True):
                if id(p) in constrained:
                    p.grad = grad
        else:
            self.backward(number)
        for layer in LAYERS:
            now = cp.statistics(self.net)[f"{layer}.weight"].pullbacks
            assert now - counts[f"{layer}.weight"].pullbacks <= (not discard)

    @rule(layer=layers, number=seeds)
    def temporarily(self, layer, number):
        self.did("temporarily")
        net, plain = self.of(layer)
        z = noise(number, 2, pair.N)
        with cp.temporarily(net, "weight", noise(number)):
            self.equal(net(z), z @ noise(number).mT + plain.bias)


LABELS = {
    *("backward", "zero_grad", "step lbfgs", "x another parameter", "updated", "hold y"),
    *("write into held y", "read eval", "create_graph", "retain_grad", "freeze", "freeze f"),
    *("train/eval", "save", "load", "load plain", "deepcopy", "pickle", "share", "untie"),
    *("functional_call", "checkpoint reentrant", "checkpoint saved tensors", "temporarily"),
    *("deferred discarded", "deferred folded", "remove constrained", "remove unconstrained"),
    *("cast float", "cast to", "read no_grad", "read inference", "read autocast"),
    *("f parameter", "f parameter.data", "f buffer", "y in place", "y data", "y assignment"),
    *("refused in place", "refused grad mode", "refused assignment", "refused both"),
    *(f"step {kind}" for kind in OPTIMISERS),
    *(f"x {how}" for how in WRITES),
}


def histories(examples, steps, **options):
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), **options,
    )  # fmt: skip


def table(followed):
    """Rows: a rule; columns: how often each rule came next."""
    names = sorted(LABELS)
    print("\nrow then column, columns numbered as the rows:")
    for i, first in enumerate(names):
        cells = " ".join(f"{followed[first, second] or '.':>3}" for second in names)
        print(f"{i:2} {first:26} {cells}")
    missing = sum(not followed[a, b] for a in names for b in names)
    print(f"{len(names) ** 2 - missing} of {len(names) ** 2} pairs of rules occurred")


def test_any_history_gives_what_the_naive_network_gives():
    Machine.ran, Machine.followed = Counter(), Counter()
    longer = float(os.environ.get("FUZZ_SECONDS", 0))
    if not longer:
        for number in range(5):
            run_state_machine_as_test(
                seed(number)(Machine), settings=histories(20, 50, phases=[Phase.generate])
            )
        assert set(Machine.ran) == LABELS
        return
    end, number = time.monotonic() + longer, int(os.environ.get("FUZZ_SEED", 0))
    while time.monotonic() < end:
        number += 1
        print(f"seed {number}", flush=True)
        run_state_machine_as_test(seed(number)(Machine), settings=histories(50, 60))
    table(Machine.followed)
    print(f"{sum(Machine.ran.values())} rules ran")
