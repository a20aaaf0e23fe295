"""Break the engine in one place at a time: the tests named beside each mutant must notice.

``python tests/mutants/run.py [id ...]`` runs all or some, ``--part 2/4`` the second quarter; it exits
1 when a mutant survives.
"""

import sys
from typing import NamedTuple

from broken import Edit, chosen, failures


class Mutant(NamedTuple):
    """``old`` becomes ``new`` in ``file``; ``tests`` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


ENGINE = "tests/engine"
SHARING, CHECKPOINTS = "tests/attach/test_sharing.py", "tests/attach/test_checkpoints.py"
SKEW = "tests/numerics/test_skew_exponential.py"
DEFINITE = "tests/numerics/test_definite_kernels.py"
SEMIDEFINITE, RECTANGULAR = "tests/sets/test_semidefinite.py", "tests/sets/test_rectangular.py"
BATCH = "tests/attach/test_batch.py"
COMPILE = "tests/attach/test_compile.py --deselect=tests/attach/test_compile.py::test_every_set_compiled_is_eager"
NUMBERS, SEQUENCES = "tests/sets/test_numbers.py", "tests/sets/test_sequences.py"
BALLS, SUBSPACES = "tests/sets/test_balls.py", "tests/sets/test_subspaces.py"
MUTANTS = [
    Mutant("private-clone", "core/slot.py", "y, graph = value.detach().clone()", "y, graph = value.detach()",
           ENGINE),
    Mutant("free-private-graph", "core/private.py", "cotangents, True, create_graph",
           "cotangents, False, create_graph", ENGINE),
    Mutant("no-second-order", "core/pullback.py", "if not torch.is_grad_enabled():\n",
           "if True:\n", ENGINE),
    Mutant("foreign-leaf-accepted", "functions/captured.py", "elif id(leaf := node.variable) not in own:",
           "elif False:", ENGINE),
    Mutant("leaf-is-x", "core/slot.py", "alias = private.detach(tensor)\n", "return tensor\n",
           ENGINE),
    Mutant("key-without-version", "attach/classes.py",
           "record.alias._version == record.version", "True", ENGINE),
    Mutant("slow-key-without-version", "core/slot.py",
           "and self.alias._version == self.version", "", ENGINE),
    Mutant("key-without-pointer", "attach/classes.py",
           "and x.data_ptr() == record.pointer", "", ENGINE),
    Mutant("key-without-requires-grad", "attach/classes.py",
           "and x.requires_grad is record.requires_grad", "", ENGINE),
    Mutant("key-without-y", "attach/classes.py",
           "and record.alias_y._version == record.version_y", "", ENGINE),
    Mutant("key-without-dispatch", "attach/classes.py", "and not private.dispatch_modes()", "",
           ENGINE),
    Mutant("key-without-tracing", "attach/classes.py", "and private.tracing_state() is None", "",
           ENGINE),
    Mutant("no-bypass", "core/slot.py", "if private.transforming():", "if False:",
           ENGINE),
    Mutant("hit-without-companions", "attach/classes.py", "and record.companions.same()", "", ENGINE),
    Mutant("companions-without-tensors", "core/key.py", "if now is not tensor or alias._version != version:",
           "if False:", ENGINE),
    Mutant("companions-without-training", "functions/parts.py", "part.training is not training or", "", ENGINE),
    Mutant("companions-without-parts", "functions/parts.py", "holder.get(key) is not part or", "", ENGINE),
    Mutant("companions-without-size", "functions/parts.py", "or _size(part) != size", "", ENGINE),
    Mutant("manual-asks-the-key", "core/slot.py", 'self.trusting = self.mode == "manual"',
           "self.trusting = False", ENGINE),
    Mutant("hit-without-snapshot", "attach/classes.py", "and record.snapshot is None", "", ENGINE),
    Mutant("no-snapshot", "core/slot.py",
           "if record.snapshot is not None and not record.snapshot.same(x):", "if False:",
           ENGINE),
    Mutant("no-increment-after-fused", "core/optimizers.py",
           "if p._version == version]", "if False]", ENGINE),
    Mutant("slots-not-emptied", "core/optimizers.py", 'slot.drop("optimiser step")', "pass",
           ENGINE),
    Mutant("step-without-gradient", "core/optimizers.py", "len(args) > 1 or", "True or",
           "tests/events/test_events.py"),
    Mutant("step-does-not-settle", "core/optimizers.py", "slot.settle(module)", "pass",
           ENGINE),
    Mutant("step-with-pending", "core/optimizers.py", "if record.graph is not None and record.graph.pending and slot.pending():", "if False:",
           ENGINE),
    Mutant("step-with-retired", "core/optimizers.py",
           "if type(p) is Retired:", "if False:",
           ENGINE),
    Mutant("data-not-guarded", "core/tensors.py", "x.__class__ = Unconstrained", "pass",
           ENGINE),
    Mutant("metaclass-differs", "core/tensors.py",
           "return other is base or type.__eq__(cls, other)", "return type.__eq__(cls, other)",
           ENGINE),
    Mutant("setattr-unseen", "attach/classes.py", 'slot.drop("x was assigned")', "pass", ENGINE),
    Mutant("state-dict-does-not-settle", "attach/classes.py",
           "slot.settle(self)\n        super()._save", "pass\n        super()._save",
           ENGINE),
    Mutant("saved-tensor-hooks-seen", "core/private.py",
           "while (hooks := _top_hooks(True)) is not None:", "while False:",
           ENGINE),
    Mutant("autocast-inside", "sets/contract.py", "enabled=False", "enabled=True",
           ENGINE),
    Mutant("low-precision-f", "sets/contract.py", "return torch.float32 if dtype in _LOW else dtype",
           "return dtype", ENGINE),
    Mutant("inference-inside", "core/isolated.py", "torch.inference_mode(False), torch", "torch",
           ENGINE),
    Mutant("deferral-forgotten", "core/slot.py", "grad.clone() if held is None", "grad.clone() if True",
           ENGINE),
    Mutant("sums-not-folded", "core/slot.py",
           "grad = held if grad is None else grad + held", "pass",
           ENGINE),
    Mutant("defers-on-old-graph", "core/slot.py", "if self.deferring and current:",
           "if self.deferring:", ENGINE),
    Mutant("dropped-sums", "core/slot.py", "if self.pending():\n", "if False:\n",
           ENGINE),
    Mutant("former-y-unseen", "core/slot.py", "self.former += ((held, version),)", "pass",
           ENGINE),
    Mutant("in-graph-write", "core/writes.py",
           "in_graph = y.grad_fn is not record.node", "in_graph = False",
           ENGINE),
    Mutant("both-written", "core/writes.py",
           "both = told or not versioned(x) or not record.same(x)", "both = False",
           ENGINE),
    Mutant("always-graph-in-eval", "core/slot.py",
           "return trains and (module.training or torch.is_grad_enabled())", "return trains",
           ENGINE),
    Mutant("deepcopy-shares-slot", "core/slot.py", "            setattr(self, key, state[key])\n        self._fresh()",
           "            setattr(self, key, state[key])", ENGINE),
    Mutant("class-per-module", "attach/classes.py", "if key not in _classes:", "if True:",
           ENGINE),
    Mutant("attribute-error-lost", "attach/classes.py", "if slot is not None and slot.failure is not None:",
           "if False:", ENGINE),
    Mutant("order-lost", "attach/registration.py", "module._parameters.update(entries)",
           "module._parameters.update(reversed(entries))", ENGINE),
    Mutant("value-kept-twice", "core/slot.py", "record.graph is None or isinstance(known.function, Constraint)",
           "record.graph is None", ENGINE),
    Mutant("random-value-not-kept", "core/slot.py", "record.graph is None or isinstance(known.function, Constraint)",
           "True", ENGINE),
    Mutant("graph-kept-in-lists", "core/slot.py", "_let_go(home, held)", "pass", "tests/modules"),
    Mutant("sparse-gradients", "core/slot.py", "grad is not None and grad.is_sparse", "False",
           "tests/modules/test_corners.py"),
    Mutant("base-not-mended", "attach/classes.py", "mend(module, slot)\n", "pass\n",
           "tests/modules/test_corners.py"),
    Mutant("ties-loosen", "attach/tie.py", "if former() is old:", "if False:", SHARING),
    Mutant("shared-x-taken-away", "tools/removal.py", "if x.shape != value.shape or shared:",
           "if x.shape != value.shape:", SHARING),
    Mutant("another-map-loads", "attach/checkpoints.py", "saved == present or not", "True or not",
           CHECKPOINTS),
    Mutant("both-keys-load", "attach/checkpoints.py", "if raw in entries:\n        raise",
           "if False:\n        raise", CHECKPOINTS),
    Mutant("signature-left-out", "attach/classes.py", "sign(self.__dict__[SLOTS], destination, prefix)",
           "pass", CHECKPOINTS),
    Mutant("plain-shares-memory", "tools/plain.py", ".detach().clone()", ".detach()", CHECKPOINTS),
    Mutant("graphs-hold-every-read", "attach/opaque.py", "if key not in known:", "if True:", COMPILE),
    Mutant("graphs-ignore-versions", "attach/opaque.py", "(id(t), t._version)", "id(t)", COMPILE),
    Mutant("graphs-ignore-grad-mode", "attach/opaque.py", "torch.is_grad_enabled(), *", "True, *", COMPILE),
    Mutant("a-number-for-each-set", "attach/opaque.py", "if entry not in known:", "if True:", COMPILE),
    Mutant("functional-call-leaves-its-tensor", "attach/classes.py", "if displaced and value is displaced[-1]:",
           "if isinstance(value, Constrained):", "tests/engine/test_transforms.py"),
    Mutant("operators-drop-tangents", "numerics/kernel.py", "any(map(has_tangent, tensors)):\n            raise",
           "False:\n            raise", "tests/engine/test_transforms.py"),
    Mutant("graphs-take-any-mode", "attach/opaque.py", "if settings_of(f) == settings", "", COMPILE),
    Mutant("graphs-of-closures-are-one", "attach/opaque.py", "return None if bound else", "return", COMPILE),
    Mutant("graphs-do-not-see-modes", "attach/opaque.py", "if type(value) in _PLAIN\n    )",
           'if type(value) in _PLAIN and key != "training"\n    )', COMPILE),
    Mutant("f-stays-in-the-graph", "tools/compiling.py", "if not slot.override:", "if False:", COMPILE),
    Mutant("small-squares-lost", "numerics/orthogonal.py",
           "torch.where(on_diagonal, (1 - lengths).to(y.dtype), -(y.mH @ y))",
           "on_diagonal.to(y.dtype) - y.mH @ y", "tests/numerics/test_orthogonal.py"),
    Mutant("constants-are-differentiated", "numerics/skew_exponential.py",
           "if torch.is_grad_enabled() or has_tangent(a) or has_tangent(g):", "if False:", SKEW),
    Mutant("tangents-are-forgotten", "numerics/skew_exponential.py",
           "if torch.is_grad_enabled() or has_tangent(a) or has_tangent(g):",
           "if torch.is_grad_enabled():", SKEW),
    Mutant("second-order-on-the-first-polynomial", "numerics/skew_exponential.py", "plan = _plan(norm, _TAYLOR)",
           "plan = _plan(norm, _table(a, norm))", SKEW),
    Mutant("coarse-after-doublings", "numerics/skew_exponential.py", "and norm <= 8 * _SINGLE[-1][0]", "", SKEW),
    Mutant("one-doubling-less", "numerics/skew_exponential.py", "math.ceil(math.log2(norm / reach))",
           "math.floor(math.log2(norm / reach))", SKEW),
    Mutant("one-doubling-more", "numerics/skew_exponential.py", "math.ceil(math.log2(norm / reach))",
           "math.ceil(math.log2(norm / reach)) + 1", SKEW),
    Mutant("complex-eigenvalues-in-pairs", "numerics/skew_exponential.py", "1 if a.is_complex() else 2", "2", SKEW),
    Mutant("bound-by-the-eighth-moment-alone", "numerics/skew_exponential.py", "for _ in range(6):", "for _ in range(0):", SKEW),
    Mutant("the-not-finite-decide", "numerics/skew_exponential.py", "norms = norms.nan_to_num(0.0, 0.0)", "pass", SKEW),
    Mutant("lazy-conjugation", "numerics/kernel.py", "return x.mH.resolve_conj()", "return x.mH", SKEW),
    Mutant("a-norm-frozen-into-a-graph", "numerics/kernel.py", "proxies.get_proxy_mode() is not None", "False", SKEW),
    Mutant("batch-of-the-fresh", "attach/batch.py", "if not reason or not slot.untouched()", "if not slot.untouched()", BATCH),
    Mutant("batch-over-a-write", "attach/batch.py", "if not reason or not slot.untouched() or", "if not reason or", BATCH),
    Mutant("batch-of-two-kinds", "attach/batch.py", "x.dtype != dtype or", "", BATCH),
    Mutant("batch-spoilt-by-one", "attach/batch.py", "except Exception:", "except ImportError:", BATCH),
    Mutant("copies-in-no-batch", "attach/classes.py", "slot.batch.join(slot, self)", "pass", BATCH),
    Mutant("zeros-for-the-unused", "attach/stacked.py", "part if wanted else None for", "part for", BATCH),
    Mutant("zeros-at-higher-orders", "attach/stacked.py", "v if part in live else None", "v", BATCH),
    Mutant("late-backward-of-a-batch", "attach/stacked.py", "version != before and", "False and", BATCH),
    Mutant("sums-passed-by", "attach/stacked.py", "if folds and not", "if False and not", BATCH),
    Mutant("ties-stay", "numerics/sequences.py", "order = torch.cummax(order - place, dim=-1).values + place",
           "order = order + 0", SEQUENCES),
    Mutant("ties-by-more-than-one", "numerics/sequences.py", "dim=-1).values + place", "dim=-1).values + 2 * place",
           SEQUENCES),
    Mutant("rounding-of-steps-adds-up", "numerics/sequences.py", "slopes = isotonic(slopes, unit * wide.abs().amax(-1))", "pass",
           SEQUENCES),
    Mutant("pools-without-weights", "numerics/sequences.py", "(mean * count + other * more) / (count + more)",
           "(mean + other) / 2", SEQUENCES),
    Mutant("projected-once", "numerics/linear.py", "value = project(y.detach())", "value = y.detach()", SUBSPACES),
    Mutant("rounding-alone-stays", "numerics/linear.py", "torch.finfo(x.dtype).eps / 8 * size", "0 * size", SUBSPACES),
    Mutant("dependent-rows-count", "numerics/linear.py", "rank = int((max(A.shape) * torch.finfo(S.dtype).eps * S[:1] < S).sum())",
           "rank = len(S)", SUBSPACES),
    Mutant("open-bound-rounded-to", "sets/interval.py", "if y.dtype == dtype or self.closed:", "if True:", NUMBERS),
    Mutant("half-line-reaches-its-bound", "sets/half_line.py", "return with_value(y, self._outermost(y, beyond(bound, self._sign)))",
           "return y", NUMBERS),
    Mutant("angle-without-reduction", "numerics/elementary.py", "return torch.atan2(torch.sin(x), torch.cos(x))", "return x * 1",
           NUMBERS),
    Mutant("open-ball-reaches-its-boundary", "sets/ball.py", "1 - units * torch.finfo(dtype).eps", "1", BALLS),
    Mutant("zeros-of-the-1-ball-stuck", "numerics/balls.py", "share = (1 - size).clamp_min(eps) / (2 * y.shape[-1] + 1)",
           "share = 0 * size", BALLS),
    Mutant("hooks-that-count", "core/tensors.py", "if counts or g is not None else None", "if g is not None else None", BATCH),
    Mutant("hooks-of-the-unused", "core/tensors.py", "if counts or g is not None else None", "", BATCH),
    Mutant("half-of-a-gram-gradient", "numerics/definite.py", "return (g + g.mH) @ l", "return 2 * g @ l", DEFINITE),
    Mutant("whole-diagonal", "numerics/contraction.py", "s.tril() - 0.5", "s.tril() - 0.0", DEFINITE),
    Mutant("no-cover", "numerics/contraction.py", "(1 + cover)", "(1 + 0 * cover)", DEFINITE),
    Mutant("phases-of-qr", "numerics/contraction.py", "q[..., :n, :] * phase.unsqueeze(-2)", "q[..., :n, :]", DEFINITE),
    Mutant("slopes-without-limit", "numerics/hermitian_exponential.py", "torch.where(gap > 0, -torch.expm1(-gap) / gap, torch.ones_like(gap))",
           "-torch.expm1(-gap) / gap", DEFINITE),
    Mutant("eigenvectors-are-differentiated", "numerics/hermitian_exponential.py", "if torch.is_grad_enabled():  # E", "if False:  # E",
           DEFINITE),
    Mutant("exp-overflows", "numerics/hermitian_exponential.py", "e, u = e.clamp(-_reach(a.dtype), _reach(a.dtype)), u.to(a.dtype)",
           "u = u.to(a.dtype)", DEFINITE),
    Mutant("singular-vectors-are-constants", "numerics/spectral_norm.py", "(_outer(x) if torch.is_grad_enabled() else outer)",
           "outer", DEFINITE),
    Mutant("edges-divide-by-zero", "numerics/spectral_norm.py", " + others @ others.mH", "", DEFINITE),
    Mutant("core-without-slack", "numerics/ranked.py", "p + (slack * trace)", "p + (0 * trace)", RECTANGULAR),
    Mutant("zero-is-dead", "numerics/semidefinite.py", "torch.maximum(e, eps *", "torch.maximum(e, 0 *", SEMIDEFINITE),
    Mutant("no-dykstra", "numerics/correlation.py", "correction = torch.where(moving, definite - shifted, correction)", "pass",
           SEMIDEFINITE),
    Mutant("onion-of-another-eta", "numerics/correlation.py", "more = 0 if like.is_complex() else 1", "more = 0", SEMIDEFINITE),
    Mutant("mask-not-read", "sets/correlation_cholesky.py", "below * self.mask.like(below)", "below", SEMIDEFINITE),
    Mutant("determinant-of-the-factor", "sets/unit_determinant_positive_definite.py", "share * log_det", "0 * log_det", SEMIDEFINITE),
    Mutant("ball-sampled-from-a-cube", "sets/spectral_ball.py", "(0 if like.is_complex() else 1)", "3", RECTANGULAR),
    Mutant("histories-after-fused", "core/optimizers.py",
           "if p._version == version]", "if False]", "tests/fuzz"),
    Mutant("histories-of-orders", "core/pullback.py", "if not torch.is_grad_enabled():\n",
           "if True:\n", "tests/fuzz"),
]  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Run the tests on a mutated copy of the sources."""
    edit = Edit(mutant.file, mutant.old, mutant.new)
    return not failures(mutant.name, [edit], mutant.tests.split(), "-x")


def main() -> None:
    names = chosen([mutant.name for mutant in MUTANTS])
    if not sys.argv[1:] and not survives(Mutant("nothing", "core/key.py", "", "", ENGINE)):
        sys.exit("the tests fail on the code as it is: nothing they catch would mean anything")
    alive = []
    for mutant in (m for m in MUTANTS if m.name in names):
        survived = survives(mutant)
        print(f"{'SURVIVED' if survived else 'caught':9} {mutant.name}", flush=True)
        alive += [mutant.name] if survived else []
    print(f"{len(names) - len(alive)} of {len(names)} mutants caught")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
