"""torch.export, strict and not, saved, loaded and run; ONNX through it."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.tanh(self.scale * x)


class Repeated(nn.Module):
    """Three reads of one constrained weight."""

    def __init__(self, function, shape=(4, 4)):
        super().__init__()
        self.layer = nn.Linear(*reversed(shape))
        cp.register_constrained_parameter(self.layer, "weight", function)
        with torch.no_grad():
            self.layer._weight_unconstrained.add_(0.1)

    def forward(self, x):
        for _ in range(3):
            x = torch.sin(self.layer(x)) @ self.layer.weight
        return x


# name: (f, shape, what stands for f in the graph)
MODELS = {
    "exp": (cp.Orthogonal(), (4, 4), "constrainedparams."),
    "tall": (cp.Orthogonal(), (5, 2), "constrainedparams."),
    "reflectors": (cp.Orthogonal("householder"), (5, 2), "constrainedparams."),
    "cayley": (cp.Orthogonal("cayley"), (4, 4), "linalg_solve"),
    "positive definite": (cp.PositiveDefinite(), (4, 4), "softplus"),
    "eigenvalues": (cp.PositiveDefinite(map="exp"), (4, 4), "constrainedparams."),
    "callable": (torch.tanh, (4, 4), "tanh"),
    "module": (Scaled(), (4, 4), "tanh"),
}


def model_of(name):
    function, shape, _ = MODELS[name]
    return Repeated(copy.deepcopy(function), shape).eval(), torch.randn(3, shape[1])


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("name", MODELS)
def test_export_holds_one_f_saved_and_loaded(name, strict):
    """For any batch size, with its parameters: what loads runs without the model, and f follows x."""
    model, h = model_of(name)
    program = torch.export.export(
        model, (h,), strict=strict, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    names = [str(n.target) for n in program.run_decompositions({}).graph.nodes]
    assert sum(MODELS[name][2] in found for found in names) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    more = torch.randn(7, h.shape[1])
    with torch.no_grad():
        for batch in (h, more):
            assert_close(program.module()(batch), model(batch))
            assert_close(loaded(batch), model(batch))
        x = "layer._weight_unconstrained"
        for each in (model, loaded):
            each.get_parameter(x).mul_(0.5)
        assert_close(loaded(h), model(h))


@pytest.mark.parametrize("name", ["exp", "tall", "eigenvalues", "cayley"])
def test_an_exported_program_trains(name):
    model, h = model_of(name)
    exported = torch.export.export(model, (h,), strict=False).module()
    grads = []
    for each in (model, exported):  # which share x
        x = each.get_parameter("layer._weight_unconstrained")
        grads += torch.autograd.grad(each(h).square().sum(), x)
    assert_close(*grads)
    assert grads[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["callable", "module", "positive definite"])
def test_onnx(name):
    """f out of operations that ONNX has travels with the model."""
    assert_same_in_onnx(*model_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_of_the_baked_model(name):
    """Any model does once it is baked: ONNX has no linear solver, and inference needs no f."""
    model, h = model_of(name)
    assert_same_in_onnx(cp.bake(model), h, model)


def assert_same_in_onnx(model, h, expected=None):
    runtime = pytest.importorskip("onnxruntime", reason="make test-all installs it")
    program = torch.onnx.export(model, (h,), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: h.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(got), (expected or model)(h), rtol=1e-5, atol=1e-5)
