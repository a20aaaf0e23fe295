"""Which row of ``rows.txt`` is held by which test."""

from pathlib import Path

from . import modules, optimizers, writes
from .ecosystem import averages, trainers
from .ecosystem import optimizers as other_optimizers

EVENTS = optimizers.EVENTS | writes.EVENTS | modules.EVENTS
ECOSYSTEM = other_optimizers.EVENTS | averages.EVENTS | trainers.EVENTS

# Rows whose event is no call on one layer; (test, x changes, evaluations at the next read).
SPECIAL = {
    **dict.fromkeys(
        optimizers.DIFFERENTIABLE,
        ("events/test_special.py::test_differentiable_step", True, 1),
    ),
    "p.add_() where p was created in inference_mode": (
        "events/test_special.py::test_x_made_in_inference_mode", True, 1),
    "module.to('meta')": ("events/test_special.py::test_to_meta", True, 1),
}  # fmt: skip

# What forward finds as x is nothing to be remembered; each of these looks before, inside and after.
FORMS = {
    "plain forward": "engine/test_once.py::test_any_number_of_reads",
    "functional_call(new tensor)": "engine/test_freshness_transforms.py::test_functional_call_with_another_x",
    "functional_call(own parameters)": "engine/test_freshness_transforms.py::test_functional_call_with_its_own_parameters",
    "func.grad over functional_call": "engine/test_freshness_transforms.py::test_grad_of_functional_call",
    "func.jvp over functional_call": "engine/test_freshness_transforms.py::test_jvp_of_functional_call",
    "vmap over stack_module_state (ensemble of 3)": "engine/test_freshness_transforms.py::test_ensemble_of_stacked_modules",
    "vmap over inputs only (closed-over weight)": "engine/test_freshness_transforms.py::test_vmap_over_inputs",
    "func.grad wrt input (closed-over weight)": "engine/test_freshness_transforms.py::test_grad_with_respect_to_the_input",
    "jacrev(vmap) nested": "engine/test_freshness_transforms.py::test_jacrev_of_vmap",
    "activation checkpoint (use_reentrant=False)+backward": "engine/test_backward.py::test_activation_checkpointing",
    "activation checkpoint (use_reentrant=True)+backward": "engine/test_backward.py::test_activation_checkpointing",
    "torch.inference_mode forward": "engine/test_once.py::test_reads_without_grad",
    "torch.export (strict=False)": "engine/test_freshness_transforms.py::test_export",
    "torch.jit.trace": "engine/test_freshness_transforms.py::test_jit_trace",
    "FakeTensorMode forward": "engine/test_freshness_transforms.py::test_fake_tensor_mode",
    "make_fx forward": "engine/test_freshness_transforms.py::test_make_fx",
}  # fmt: skip

COLLECTIVES = (
    "dist.broadcast(p.detach(), 0)  (rank 1)",
    "dist.broadcast(p.data, 0)",
    "dist.all_reduce(p.data)",
    "dist.broadcast(p, 0) under no_grad",
    "dist.all_reduce(p) under no_grad",
    "dist.recv(p) under no_grad",
    "dist.broadcast(p.detach(), async_op=True); wait()",
)
SHARDED = (
    "DTensor parameter: p.to_local().detach().add_()",
    "DTensor parameter: p._local_tensor.add_()",
)
TRAINING = "engine/test_distributed.py::test_training_equals_one_process"
PROCESSES = {
    **dict.fromkeys(
        COLLECTIVES, ("engine/test_distributed.py::test_collectives_are_silent", True, 0)
    ),
    **dict.fromkeys(
        ("DTensor parameter: AdamW.step", *SHARDED),
        ("engine/test_distributed.py::test_writes_to_a_sharded_parameter", True, 1),
    ),
    "DDP(module): broadcast at construction": (
        "engine/test_distributed.py::test_ddp_broadcasts_at_construction", True, 1),
    "DDP: forward/backward/AdamW.step": (TRAINING, True, 1),
    "ZeroRedundancyOptimizer.step: parameter A": (TRAINING, True, 1),
    "ZeroRedundancyOptimizer.step: parameter B": (TRAINING, True, 1),
    "PeriodicModelAverager.average_parameters (local SGD)": (
        "engine/test_distributed.py::test_in_place_collectives", True, 1),
    "FSDP2 reshard_after_forward=True": (TRAINING, True, 1),
    "FSDP2 reshard_after_forward=False": (TRAINING, True, 1),
    "FSDP1 use_orig_params": (
        "engine/test_distributed.py::test_fsdp1_with_original_parameters", True, 1),
}  # fmt: skip

ABSENT = {"Adam(capturable)": "torch refuses capturable optimisers on the CPU"}


def sections():
    """{title: rows}, in order."""
    found = {}
    for line in Path(__file__).with_name("rows.txt").read_text().splitlines():
        if line.startswith("# "):
            found[line[2:]] = rows = []
        elif line:
            rows.append(line)
    return found


def tests():
    """{row: [tests that hold it]}."""
    held = [(row, "events/test_events.py::test_event") for row in EVENTS]
    held += [(row, "events/ecosystem/test_ecosystem.py::test_event") for row in ECOSYSTEM]
    held += [(row, test) for row, (test, *_) in (SPECIAL | PROCESSES).items()]
    held += FORMS.items()
    found = {}
    for row, test in held:
        found.setdefault(row, []).append(test)
    return found
