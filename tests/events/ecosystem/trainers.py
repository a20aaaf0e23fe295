"""Programs that own the loop: trainers, SciPy's minimisers, packages of Gaussian processes."""

import tempfile

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..event import Runs, Table, X, f, loss_of, make

EVENTS = Table()


@EVENTS.row("accelerate: prepare/backward/clip/step")
def accelerated(layer):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(layer, optimizer)
    accelerator.backward(loss_of(model.weight))
    accelerator.clip_grad_norm_(model.parameters(), 0.5)
    _ = layer.weight
    optimizer.step()


def fit(layer, steps, **options):
    """lightning's trainer over batches of rows."""
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def training_step(self, batch, _):
            return loss_of(self.layer(batch))

        def validation_step(self, batch, _):
            self.at_validation = self.layer.weight.detach().clone(), getattr(layer, X).clone()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    task, rows = Task(), torch.utils.data.DataLoader(torch.rand(steps, 4))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, default_root_dir=folder, **quiet, **options
        )
        trainer.fit(task, rows, rows if options.get("limit_val_batches") else None)
    return task


@EVENTS.row("lightning.Trainer.fit 1 step (closure optimiser step)")
def lightning_step(layer):
    fit(layer, 1)


@EVENTS.row("lightning EMAWeightAveraging: swap in for validation")
def lightning_average(layer):
    """The average is in the model while it is validated, and stays there after the fit."""
    from lightning.pytorch.callbacks import EMAWeightAveraging

    task = fit(layer, 3, limit_val_batches=1, num_sanity_val_steps=0,
               callbacks=[EMAWeightAveraging(decay=0.5)])  # fmt: skip
    y, x = task.at_validation
    torch.testing.assert_close(y, f(x).detach())


@EVENTS.row("transformers.Trainer.train(max_steps=1), default optimiser")
def transformers_step(layer):
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, rows=None, labels=None):
            return {"loss": loss_of(self.layer(rows))}

    data = [{"rows": torch.rand(4), "labels": torch.rand(1)} for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
            learning_rate=0.1, per_device_train_batch_size=2,
        )  # fmt: skip
        trainer = Trainer(Model(), arguments, train_dataset=data)
        trainer.train()
    assert "fused" in arguments.optim.value


def minimise(layer, write):
    """A few evaluations of SciPy's L-BFGS-B, each of which writes x."""
    from scipy.optimize import minimize

    def objective(vector):
        write(vector)
        layer.zero_grad()
        loss = loss_of(layer.weight)
        loss.backward()
        return loss.item(), getattr(layer, X).grad.numpy().ravel().copy()

    start = parameters_to_vector(layer.parameters()).detach().numpy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 3})
    assert found.fun < objective(start)[0]
    write(found.x)


@EVENTS.row("scipy.optimize.minimize with p.copy_(from_numpy(x))")
def scipy_copy(layer):
    @torch.no_grad()
    def write(vector):
        getattr(layer, X).copy_(torch.from_numpy(vector.copy()).view(4, 4))

    minimise(layer, write)


@EVENTS.row("scipy.optimize.minimize with vector_to_parameters")
def scipy_vector(layer):
    minimise(
        layer,
        lambda vector: vector_to_parameters(torch.from_numpy(vector.copy()), layer.parameters()),
    )


@EVENTS.row("botorch NdarrayOptimizationClosure(x) (scipy L-BFGS-B)")
def botorch_closure(layer):
    from botorch.optim.closures import ForwardBackwardClosure, NdarrayOptimizationClosure

    parameters = dict(layer.named_parameters())
    closure = NdarrayOptimizationClosure(
        ForwardBackwardClosure(lambda: loss_of(layer.weight), parameters), parameters
    )
    first, _ = closure(np.linspace(-0.5, 0.5, 16))
    second, gradient = closure(np.linspace(0.5, -0.5, 16))
    assert first != second and gradient.shape == (16,)
    closure.state = np.linspace(-1.0, 1.0, 16)


class Kernel(nn.Module):
    """(4, 4) -> (4, 4): f has a kernel of gpytorch's inside, with a lengthscale to learn."""

    def __init__(self):
        super().__init__()
        import gpytorch

        self.kernel = gpytorch.kernels.RBFKernel()

    def forward(self, x):
        Runs.count += 1
        return torch.tanh(x) + self.kernel(x).to_dense()


def with_kernel(**options):
    return make(Kernel(), **options)


def kernel_of(layer):
    return layer._weight_function.kernel


# the parameters of an f that is a module are watched as x is, so these two need no telling
SEEN = {"make": with_kernel, "changes": None, "tell": "layer.weight.updated()"}


@EVENTS.row("gpytorch kernel.lengthscale = 2.  (constraint setter)", **SEEN)
def gpytorch_setter(layer):
    kernel_of(layer).lengthscale = 2.0


@EVENTS.row("gpytorch kernel.initialize(lengthscale=3.)", **SEEN)
def gpytorch_initialize(layer):
    kernel_of(layer).initialize(lengthscale=3.0)
