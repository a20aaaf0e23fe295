"""torch.nn.utils.parametrize: our sets there, parametrized models here, their checkpoints too."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import constrainedparams as cp
from constrainedparams import (
    ConstraintViolation,
    OptionError,
    RegistrationError,
    adopt,
    as_parametrization,
    constraint_of,
)
from constrainedparams.testing import ROWS


def _unique():
    """One row of each set, the first; one more where bounds belong to it."""
    kinds = {(type(c.constraint), getattr(c.constraint, "closed", False)): c for c in ROWS[::-1]}
    return list(kinds.values())


@pytest.mark.parametrize("row", _unique(), ids=str)
def test_every_set_is_a_parametrization(row):
    """Value and gradient equal those of the constrained parameter, also after a step."""
    torch.manual_seed(0)
    start = row.constraint.sample(row.shape)
    ours, theirs = nn.Module(), nn.Module()
    for module in (ours, theirs):
        module.weight = nn.Parameter(start.clone())
    cp.register_constrained_parameter(ours, "weight", row.constraint)
    part = as_parametrization(row.constraint)
    parametrize.register_parametrization(theirs, "weight", part, unsafe=True)
    raw = theirs.parametrizations.weight.original
    x = ours._weight_unconstrained
    weights = torch.randn(row.shape)
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (x, raw)]
    for _ in range(2):
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (module.weight * weights).sum().backward()
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(x.grad, raw.grad)
        for optimizer in optimizers:
            optimizer.step()
    theirs.weight = start
    assert torch.allclose(theirs.weight, start, atol=1e-5)
    other = nn.Module()
    other.weight = nn.Parameter(row.constraint.sample(row.shape))
    other_part = as_parametrization(row.constraint)
    parametrize.register_parametrization(other, "weight", other_part, unsafe=True)
    other.load_state_dict(theirs.state_dict())
    assert torch.equal(other.weight, theirs.weight)


def test_off_the_set():
    layer = parametrize.register_parametrization(
        nn.Linear(3, 3), "weight", as_parametrization(cp.Orthogonal())
    )
    assert bool(cp.Orthogonal().contains(layer.weight))
    strict = as_parametrization(cp.Orthogonal(), project=False)
    with pytest.raises(ConstraintViolation, match="away"):
        parametrize.register_parametrization(nn.Linear(3, 3), "weight", strict)
    with pytest.raises(OptionError, match="expected a set"):
        as_parametrization(torch.tanh)


MADE = {
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
        cp.Orthogonal(),
    ),
    "orthogonal, tall": (
        lambda: parametrizations.orthogonal(nn.Linear(3, 5), orthogonal_map="matrix_exp"),
        cp.Orthogonal(),
    ),
    "orthogonal, cayley": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"),
        cp.Orthogonal("cayley"),
    ),
    "orthogonal, householder": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="householder"),
        cp.Orthogonal("householder"),
    ),
    "orthogonal, wide reflectors": (
        lambda: parametrizations.orthogonal(
            nn.Linear(5, 3), orthogonal_map="householder", use_trivialization=False
        ),
        cp.Orthogonal("householder"),
    ),
    "orthogonal, conv": (
        lambda: parametrizations.orthogonal(nn.Conv2d(2, 3, 2)),
        cp.Orthogonal(view="batch"),
    ),
    "ours, conv": (
        lambda: parametrize.register_parametrization(
            nn.Conv2d(2, 3, 2), "weight", as_parametrization(cp.Sphere())
        ),
        cp.Sphere(dim=3),
    ),
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
        cp.MagnitudeDirection(dim=(1,)),
    ),
    "weight_norm, conv": (
        lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 2)),
        cp.MagnitudeDirection(dim=(1, 2, 3)),
    ),
    "weight_norm, whole": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 3), dim=None),
        cp.MagnitudeDirection(dim=None),
    ),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(4, 3), n_power_iterations=30),
        cp.SpectralSphere(),
    ),
    "spectral_norm, conv": (
        lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 2), n_power_iterations=30),
        cp.SpectralSphere(view="d0 d1 d2 d3 -> d0 (d1 d2 d3)"),
    ),
    "ours": (
        lambda: parametrize.register_parametrization(
            nn.Linear(3, 3), "weight", as_parametrization(cp.Sphere())
        ),
        cp.Sphere(),
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_adopt(name):
    torch.manual_seed(0)
    make, expected = MADE[name]
    model = nn.Sequential(make(), nn.Tanh())
    model.eval()
    before = model[0].weight.detach().clone()
    checkpoint = copy.deepcopy(model.state_dict())
    assert adopt(model) is model
    assert constraint_of(model[0], "weight") == expected
    assert not parametrize.is_parametrized(model[0])
    assert torch.allclose(model[0].weight, before, atol=2e-4)  # a power iteration's own error
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert str(module.load_state_dict(checkpoint)) == "<All keys matched successfully>"
        assert torch.allclose(module[0].weight, before, atol=2e-4)
        assert float(cp.violations(module)["0.weight"]) < 1e-5
    assert str(model.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    loss = model(torch.randn(2, 2, 4, 4) if "conv" in name else torch.randn(2, before.shape[1]))
    loss.sum().backward()
    assert model[0]._weight_unconstrained.grad.abs().sum() > 0


GEOTORCH = {
    "sphere": ((3, 4), {}, cp.Sphere()),
    "symmetric": ((3, 3), {}, cp.Symmetric()),
    "skew": ((3, 3), {}, cp.Skew()),
    "orthogonal": ((4, 2), {}, cp.Orthogonal()),
    "grassmannian": ((4, 2), {}, cp.Grassmann()),
    "almost_orthogonal": ((4, 3), {"lam": 0.5}, cp.BoundedSingularValues(0.5, 1.5)),
    "low_rank": ((4, 3), {"rank": 2}, cp.LowRank(2)),
    "fixed_rank": ((4, 3), {"rank": 2}, cp.FixedRank(2)),
    "invertible": ((3, 3), {}, cp.Invertible()),
    "sln": ((3, 3), {}, cp.SpecialLinear()),
    "positive_definite": ((3, 3), {}, cp.PositiveDefinite()),
    "positive_semidefinite": ((3, 3), {}, cp.PositiveSemidefinite()),
    "positive_semidefinite_low_rank": ((3, 3), {"rank": 2}, cp.PositiveSemidefinite(2)),
    "positive_semidefinite_fixed_rank": ((3, 3), {"rank": 2}, cp.FixedRankPositiveSemidefinite(2)),
    "alpha_stable": ((3, 3), {"alpha": 0.5}, cp.Hurwitz(0.5)),
}


@pytest.mark.filterwarnings("ignore")  # geotorch's own use of older names
@pytest.mark.parametrize("name", GEOTORCH)
def test_adopt_from_geotorch(name):
    """The value is kept, to the precision with which geotorch has it on the set."""
    import geotorch

    torch.manual_seed(1)
    (n, k), options, expected = GEOTORCH[name]
    layer = nn.Linear(k, n, dtype=torch.float64)
    getattr(geotorch, name)(layer, "weight", **options)
    layer.double()
    before = layer.weight.detach().clone()
    checkpoint = copy.deepcopy(layer.state_dict())
    adopt(layer)
    assert constraint_of(layer, "weight") == expected
    torch.testing.assert_close(layer.weight.detach(), before, atol=1e-6, rtol=1e-5)
    layer.load_state_dict(checkpoint)
    torch.testing.assert_close(layer.weight.detach(), before, atol=1e-6, rtol=1e-5)


def test_an_old_checkpoint_of_weight_norm():
    """The keys weight_g and weight_v of torch.nn.utils.weight_norm, which torch itself converts."""
    model = parametrizations.weight_norm(nn.Linear(4, 3))
    checkpoint = dict(model.state_dict())
    before = model.weight.detach().clone()
    checkpoint["weight_g"] = checkpoint.pop("parametrizations.weight.original0")
    checkpoint["weight_v"] = checkpoint.pop("parametrizations.weight.original1")
    adopt(model)
    with torch.no_grad():
        model._weight_unconstrained.mul_(2)
    model.load_state_dict(checkpoint)
    assert torch.allclose(model.weight, before)


class _Mine(nn.Module):
    def forward(self, x):
        return x.tanh()

    def right_inverse(self, y):
        return y.clamp(-0.9, 0.9).atanh()


def test_what_is_not_known_is_refused_and_nothing_has_changed():
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 3))
    parametrize.register_parametrization(model[1], "weight", _Mine())
    keys = list(model.state_dict())
    with pytest.raises(RegistrationError, match=r"1\.weight: a parametrization not known"):
        adopt(model)
    with pytest.raises(
        RegistrationError, match=r"parametrized in this model: 0\.weight, 1\.weight"
    ):
        adopt(model, {"2.weight": torch.tanh})
    assert list(model.state_dict()) == keys
    before = model[1].weight.detach().clone()
    adopt(model, {"1.weight": cp.Interval(-1.0, 1.0)})
    assert torch.allclose(model[1].weight, before, atol=1e-6)


def _not_finite(model):
    with torch.no_grad():
        model[1].parametrizations.weight.original.fill_(torch.nan)


@pytest.mark.parametrize(
    ("damage", "functions", "message"),
    [
        (_not_finite, {}, r"1\.weight: 9 of 9 entries are NaN"),
        (lambda _: None, {"1.weight": cp.Simplex(mask=[True, False])}, r"1\.weight: .*mask"),
        (lambda _: None, {"1.weight": cp.Symmetric}, r"1\.weight: .*Write `Symmetric\(\)`"),
        (
            lambda model: parametrizations.weight_norm(model[1], "bias"),
            {},
            r"1\.bias: weight_norm of single numbers.*remove_parametrizations",
        ),
        (
            lambda model: setattr(model[1], "max_norm", 1.0),  # as an embedding has it
            {},
            r"1\.weight: .*rescaled in place",
        ),
        (lambda model: model[1].compile(), {}, r"1\.weight: .*torch\.compile.*before wrapping"),
    ],
)
def test_a_refusal_names_the_tensor_and_changes_nothing(damage, functions, message):
    model = nn.Sequential(*[parametrizations.orthogonal(nn.Linear(3, 3)) for _ in range(2)])
    damage(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(cp.ConstraintError, match=message):
        adopt(model, functions)
    assert list(model.state_dict()) == list(before)
    assert all(parametrize.is_parametrized(layer, "weight") for layer in model)


def test_a_set_for_a_convolution_says_how_to_read_it_before_anything_changes():
    layer = parametrizations.orthogonal(nn.Conv2d(2, 3, 2))
    with pytest.raises(RegistrationError, match=r'weight: .*view="o i h w -> o \(i h w\)"'):
        adopt(layer, {"weight": cp.SpectralBall()})
    assert parametrize.is_parametrized(layer, "weight")


def test_a_compiled_model_is_adopted_before_it_is_wrapped():
    layer = parametrizations.orthogonal(nn.Linear(3, 3))
    wrapped = torch.compile(layer, backend="eager")
    with pytest.raises(RegistrationError, match="before wrapping"):
        adopt(wrapped)
    assert parametrize.is_parametrized(layer, "weight")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entries: entries.pop("parametrizations.weight.0.base"), "Missing key"),
        (lambda entries: entries["parametrizations.weight.original"].fill_(torch.nan), "NaN"),
    ],
)
def test_a_former_checkpoint_that_cannot_be_read_is_refused_by_name(damage, message):
    layer = parametrizations.orthogonal(nn.Linear(3, 3))
    checkpoint = copy.deepcopy(dict(layer.state_dict()))
    adopt(layer)
    before = layer.weight.detach().clone()
    damage(checkpoint)
    with pytest.raises(cp.ConstraintError, match=rf"Linear\.weight: (.|\n)*{message}"):
        layer.load_state_dict(checkpoint)
    assert torch.equal(layer.weight, before)


def test_several_on_one_tensor_are_refused():
    layer = parametrizations.orthogonal(nn.Linear(3, 3))
    parametrize.register_parametrization(layer, "weight", _Mine())
    with pytest.raises(RegistrationError, match="several parametrizations"):
        adopt(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_the_older_norms_are_refused_with_the_way_over(kind):
    model = nn.Sequential(getattr(nn.utils, kind)(nn.Linear(3, 3)))
    with pytest.raises(RegistrationError, match=rf"0 is under torch\.nn\.utils\.{kind}") as caught:
        adopt(model)
    exec(str(caught.value).split("`")[1] + "(model[0])", {"torch": torch, "model": model})
    cp.register_constrained_parameter(model[0], "weight", cp.Sphere())


@pytest.mark.parametrize("wrong", ["a", cp.Orthogonal().sample((2, 2))])
def test_adopt_takes_a_module(wrong):
    with pytest.raises(RegistrationError, match=r"adopt got \w+; expected an nn\.Module"):
        adopt(wrong)


@pytest.mark.parametrize("wrong", [cp.Orthogonal(), ["weight"]])
def test_adopt_takes_a_dict_of_functions(wrong):
    layer = parametrizations.orthogonal(nn.Linear(3, 3))
    with pytest.raises(RegistrationError, match=r"expected a dict from qualified names"):
        adopt(layer, wrong)
    assert parametrize.is_parametrized(layer)


def test_a_class_is_shown_as_one():
    for take in (cp.as_parametrization, cp.to_distributions):
        with pytest.raises(OptionError, match=r"class .*Orthogonal'>; expected a set, an instance"):
            take(cp.Orthogonal)


def test_nothing_to_adopt_is_no_error():
    layer = nn.Linear(2, 2)
    assert adopt(layer) is layer
    assert type(layer) is nn.Linear
