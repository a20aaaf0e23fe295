"""What somebody reads who guessed wrong: each message says what to type."""

import warnings

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams import Orthogonal, Parametrized
from constrainedparams import register_constrained_parameter as register


def linear():
    return nn.Linear(4, 4)


def orthogonal():
    return register(nn.Linear(4, 4), "weight", Orthogonal())


def message(do, error=Exception):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as caught:
            do()
    return str(caught.value)


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.ws = nn.ParameterList([torch.rand(4, 4)])


def test_gradient_of_y():
    layer = orthogonal()
    layer(torch.ones(1, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"_weight_unconstrained\.grad"):
        _ = layer.weight.grad


def test_clipping_y_clips_nothing():
    """It returns 0."""
    layer = orthogonal()
    layer(torch.ones(1, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"_weight_unconstrained"):
        torch.nn.utils.clip_grad_norm_([layer.weight], 1.0)


def test_gradient_of_y_assigned_is_refused():
    layer = orthogonal()
    assert "_weight_unconstrained.grad" in message(
        lambda: setattr(layer.weight, "grad", torch.ones(4, 4)), cp.ConstraintError
    )


@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("fc.weight", 'register_constrained_parameter(module.fc, "weight", ...)'),
        ("ws.0", 'register_constrained_parameter(module.ws, "0", ...)'),
        ("ws", 'register_constrained_parameter(module.ws, "0", ...)'),
        ("fc", 'register_constrained_parameter(module.fc, "weight", ...)'),
        ("weight", "module.fc"),
    ],
)
def test_a_name_below(name, say):
    assert say in message(lambda: register(Parent(), name, Orthogonal()), cp.RegistrationError)


def test_the_tensor_as_the_name():
    layer = linear()
    text = message(lambda: register(layer, layer.weight, Orthogonal()))
    assert '"weight"' in text and "tensor(" not in text


def test_the_tensor_as_the_module():
    layer = linear()
    text = message(lambda: register(layer.weight, "weight", Orthogonal()))
    assert "register_constrained_parameter(layer, " in text  # besides Parametrized


def test_the_result_instead_of_the_function():
    layer = linear()
    text = message(lambda: register(layer, "weight", torch.tanh(layer.weight)))
    assert (
        "tensor(" not in text and "torch.tanh" in text
    )  # "give the function, such as torch.tanh, not its result"


def test_name_and_function_swapped():
    text = message(lambda: register(linear(), Orthogonal(), "weight"))
    assert 'register_constrained_parameter(module, "weight", Orthogonal())' in text


def test_the_name_of_a_set_in_words():
    assert "`Orthogonal()`?" in message(lambda: register(linear(), "weight", "orthogonal"))
    assert "PositiveDefinite()" in message(
        lambda: register(linear(), "weight", "positive_definite")
    )


def test_the_remedy_for_integers_is_true():
    """`module.float()` leaves integer parameters as they are."""
    module = nn.Module()
    module.table = nn.Parameter(torch.zeros(4, dtype=torch.long), requires_grad=False)
    text = message(lambda: register(module, "table", torch.exp))
    assert "module.float()" not in text
    assert "module.table = nn.Parameter(module.table.float())" in text


def test_a_transposed_convolution():
    """Its axes are (in, out, h, w)."""
    text = message(lambda: register(nn.ConvTranspose2d(2, 3, 2), "weight", Orthogonal()))
    assert 'view="i o h w -> i (o h w)"' in text


def test_names_of_generated_classes_stay_inside():
    layer = orthogonal()
    assert "Constrained" not in message(lambda: register(layer, "_weight_unconstrained", torch.exp))
    assert "Constrained" not in message(lambda: register(layer, "wieght", torch.exp))
    assert "ConstrainedL" not in message(lambda: cp.remove_constrained_parameter(layer, "wieght"))
    share = cp.share_constrained_parameter
    assert "ConstrainedL" not in message(lambda: share(layer, "weight", layer, "bias"))
    patterns = cp.register_constrained_parameters
    assert "ConstrainedL" not in message(lambda: patterns(layer, {"wieght": Orthogonal()}))
    holder = torch.compile(layer, backend="eager")
    assert "ConstrainedL" not in message(lambda: register(layer, "bias", torch.tanh))
    del holder


@pytest.mark.parametrize("x", [[1.0, 2.0], torch.zeros(3, dtype=torch.long), torch.exp])
def test_parametrized(x):
    assert "torch." in message(lambda: Parametrized(x, torch.exp), cp.RegistrationError)


def test_parametrized_x_assigned():
    w = Parametrized(torch.zeros(3), torch.exp)
    text = message(lambda: setattr(w, "x", torch.ones(3)))
    assert "w.x.copy_(" in text or "with torch.no_grad()" in text


def test_wrapped_says_where_the_module_is():
    model = torch.compile(linear(), backend="eager")
    assert "_orig_mod" in message(lambda: register(model, "weight", Orthogonal()))
    assert ".module" in message(lambda: register(nn.DataParallel(linear()), "weight", Orthogonal()))


def test_a_layer_parametrized_by_torch():
    layer = torch.nn.utils.parametrizations.orthogonal(linear())
    assert "remove_parametrizations" in message(lambda: register(layer, "weight", Orthogonal()))


def scaled(scale):
    def f(x, *, by=scale):
        return by * x

    return f


def test_a_cell_that_runs_twice():
    layer = register(linear(), "weight", scaled(torch.ones(2, 1, 4)[0]))
    register(layer, "weight", scaled(torch.ones(2, 1, 4)[0]))  # equal in all that it depends on
    assert "notebook" in message(lambda: register(layer, "weight", scaled(2.0)))
    layer = register(linear(), "weight", scaled(1.0))
    register(layer, "weight", scaled(1.0))
    assert "already" in message(lambda: register(layer, "weight", scaled(5.0)))
