"""Rules that train: backward passes of every kind, and steps."""

import copy
import threading
import warnings

import torch
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

import constrainedparams as cp

from . import pair
from .book import Book, flags, seeds
from .events import OPTIMISERS
from .pair import LAYERS, noise, ramp, tilt


def in_another_thread(work):
    """Run ``work`` in a thread of its own; raise what it raised."""
    errors = []

    def guarded():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def descend(parameters, evaluate):
    """L-BFGS, by no more than 0.1 an entry: of networks with large weights few digits are right."""
    optimiser = torch.optim.LBFGS(list(parameters), lr=0.02, max_iter=3)
    start = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def stay():
        for p, old in zip(parameters, start, strict=True):
            if (p - old).abs().max() > 0.1:
                p.clamp_(old - 0.1, old + 0.1)

    def closure():
        stay()
        optimiser.zero_grad()
        return evaluate()

    optimiser.step(closure)
    stay()


class Training(Book):
    @rule(number=seeds, passes=st.integers(1, 2), elsewhere=flags)
    def accumulate(self, number, passes, elsewhere):
        self.did("backward in a thread" if elsewhere else "backward")
        before = self.pullbacks()
        for i in range(passes):
            if elsewhere:
                in_another_thread(lambda: self.backward(number + i))
            else:
                self.backward(number + i)
        for layer, spent in self.pullbacks().items():
            assert spent - before[layer] <= passes

    def pullbacks(self):
        found = cp.statistics(self.net)
        return {layer: found[f"{layer}.weight"].pullbacks for layer in self.layers()}

    @rule(number=seeds)
    def second_derivative(self, number):
        self.did("grad create_graph")
        found = []
        for loss, tensors in zip(self.loss(number), self.trained(), strict=True):
            first = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
            total = sum(tilt(g) for g in first if g is not None)
            found.append(torch.autograd.grad(total, tensors, allow_unused=True))
        self.all_equal(*found)

    @rule(number=seeds)
    def backward_with_graph(self, number):
        """Gradients that have gradients, added to those that are there."""
        self.did("backward create_graph")
        found = []
        for loss, tensors in zip(self.loss(number), self.trained(), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the cycle is undone below
                loss.backward(create_graph=True)
            first = [t.grad for t in tensors if t.grad is not None and t.grad.requires_grad]
            second = torch.autograd.grad(sum(map(tilt, first)), tensors, allow_unused=True)
            found.append(second)
            for t in tensors:
                t.grad = None if t.grad is None else t.grad.detach()
        self.all_equal(*found)

    @rule(to_none=flags)
    def zero_grad(self, to_none):
        self.did("zero_grad")
        self.net.zero_grad(set_to_none=to_none)
        self.plain.zero_grad(set_to_none=to_none)

    # steps ---------------------------------------------------------------------------------------
    def pair_of_optimisers(self, kind):
        if kind not in self.optimisers:
            named = [(x, p) for _, x, p in pair.pairs(self.net, self.plain)]
            named = [(x, p) for x, p in named if kind != "muon" or x.ndim == 2]
            both = zip(*named, strict=True)
            self.optimisers[kind] = [OPTIMISERS[kind](list(side)) for side in both]
        return self.optimisers[kind]

    @rule(kind=st.sampled_from(sorted(OPTIMISERS)), number=seeds, fresh=flags)
    def optimise(self, kind, number, fresh):
        self.did(f"step {kind}", *self.layers())
        if fresh:
            self.net.zero_grad()
            self.plain.zero_grad()
        self.backward(number)
        self.compare_grads()
        self.synchronise(grads=True)
        for optimiser, tensors in zip(self.pair_of_optimisers(kind), self.trained(), strict=True):
            clip_grad_norm_(tensors, 1.0)  # of networks with large weights few digits are right
            optimiser.step()

    @rule(number=seeds)
    def lbfgs(self, number):
        """Both go by the network's gradients, each found equal to the naive one before.

        It divides by the curvature along its last step, which may be next to nothing, and so
        multiplies the rounding of a gradient without a bound (``test_oracle.py``).
        """
        net, plain = zip(*[(x, p) for _, x, p in pair.pairs(self.net, self.plain)], strict=True)
        if not any(p.requires_grad for p in plain):
            return
        seen = []

        def evaluate():
            loss = self.loss_of(self.net, number)
            loss.backward()
            seen.append((loss.detach(), [x.grad for x in net]))
            return loss

        def evaluate_naive():
            naive = self.loss_of(self.plain, number)
            naive.backward()
            loss, grads = next(given)
            self.equal(loss, naive)
            for p, grad in zip(plain, grads, strict=True):
                self.equal(grad, p.grad)
                if grad is not None:
                    p.grad.copy_(grad)
            return loss

        descend(net, evaluate)
        given = iter(seen)
        descend(plain, evaluate_naive)
        assert next(given, None) is None
        self.did("step lbfgs", *self.layers(), changes=len(seen))

    @rule(number=seeds, overflow=flags)
    def scaled(self, number, overflow):
        """A GradScaler divides the gradients by its scale, and skips a step with an infinite one."""
        self.did(f"scaler {'skips' if overflow else 'steps'}", *self.layers())
        self.net.zero_grad()
        self.plain.zero_grad()
        losses, optimisers = self.loss(number), self.pair_of_optimisers("sgd foreach")
        for loss, optimiser, tensors in zip(losses, optimisers, self.trained(), strict=True):
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
            if not loss.requires_grad:
                return
            scaler.scale(loss).backward()
            if overflow:
                tensors[0].grad.fill_(torch.inf)
            else:
                scaler.unscale_(optimiser)
                clip_grad_norm_(tensors, 1.0)
            scaler.step(optimiser)
            scaler.update()
            assert (scaler.get_scale() < 8.0) is overflow
            for t in tensors if overflow else ():
                t.grad = None

    # other ways through backward -----------------------------------------------------------------
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
        counts = self.pullbacks()
        block = cp.deferred_pullback(self.net)
        for i in range(passes):
            with block:
                self.backward(number + i)
        if discard:
            block.discard()
            constrained = {id(t) for k in self.layers() for t in self.inputs(k)[1]}
            for p, grad in zip(self.plain.parameters(), before, strict=True):
                if id(p) in constrained:
                    p.grad = grad
        else:
            self.backward(number)
        for layer, spent in self.pullbacks().items():
            assert spent - counts[layer] <= (not discard)

    @rule(layer=st.sampled_from(pair.ALL), number=seeds)
    def retain_grad(self, layer, number):
        self.did("retain_grad")
        net, plain = self.of(self.known(layer))
        if plain.weight.requires_grad:
            y, want = net.weight, plain.weight
            y.retain_grad()
            y.grad = None
            want.retain_grad()
            (ramp(y) * number).backward()
            (ramp(want) * number).backward()
            self.equal(y.grad, want.grad)

    @rule(number=seeds, dtype=st.sampled_from((torch.bfloat16, torch.float16)), inside=flags)
    def autocast(self, number, dtype, inside):
        """Copies in float32, as autocast leaves float64 alone: it reaches neither f nor f'."""
        self.did("autocast")
        net, plain = (copy.deepcopy(n).float() for n in (self.net, self.plain))
        net.zero_grad()
        plain.zero_grad()
        net.a.weight.sum()  # puts the rounded base point back on the set
        plain.a.base.copy_(net.a._weight_base)
        cp.updated(net)
        with torch.autocast("cpu", dtype):
            assert net(noise(number, 2, pair.N).float()).dtype is dtype
            total = sum(ramp(getattr(net, k).weight) for k in LAYERS)
            if inside and total.requires_grad:
                total.backward()
        if not inside and total.requires_grad:
            total.backward()
        want = sum(ramp(getattr(plain, k).weight) for k in LAYERS)
        if want.requires_grad:
            want.backward()
        for (_, x, p), k in zip(pair.pairs(net, plain), LAYERS, strict=False):
            self.equal(getattr(net, k).weight, getattr(plain, k).weight, rtol=1e-5, atol=1e-5)
            self.equal(x.grad, p.grad, rtol=1e-4, atol=1e-5)
