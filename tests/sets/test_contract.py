"""What the contract does once for every set: options, constants, views, messages."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from constrainedparams import (
    AffineSubspace,
    BoundedSingularValues,
    Interval,
    LowRank,
    NonNegative,
    Ordered,
    Orthogonal,
    PositiveDefinite,
    Rotation3D,
    Sphere,
    Unitary,
)
from constrainedparams.errors import ConstraintViolation, DtypeError, OptionError, ShapeError
from constrainedparams.testing import ROWS


def all_it_computes(case):
    constraint, random = case.constraint, torch.Generator().manual_seed(0)
    y = constraint.sample(case.shape, dtype=torch.float64, generator=random)
    found = constraint.right_inverse(y)
    x, state = found if isinstance(found, tuple) else (found, {})
    off = 3 * y - 0.5
    return [
        y,
        x,
        *state.values(),
        constraint(0.5 * x, **state),
        constraint.project(off),
        constraint.residual(off),
    ]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: f"{case.constraint!r} {case.shape}")
def test_the_default_dtype_changes_nothing(case):
    expected = all_it_computes(case)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = all_it_computes(case)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_view_reads_a_convolution_as_one_matrix():
    constraint = Orthogonal(view="o i h w -> o (i h w)")
    y = constraint.sample((4, 3, 2, 2))
    flat = y.reshape(4, 12)
    assert torch.allclose(flat @ flat.mT, torch.eye(4), atol=1e-5)
    x, state = constraint.right_inverse(y)
    assert x.shape == state["base"].shape == y.shape
    assert constraint.residual(y).shape == ()
    assert constraint.dimension((4, 3, 2, 2)) == Orthogonal().dimension((4, 12))
    plain = Orthogonal()(torch.ones(4, 12), base=state["base"].reshape(4, 12))
    assert torch.equal(constraint(torch.ones_like(y), **state), plain.reshape(y.shape))


def test_a_view_reads_heads_as_a_batch():
    constraint = Orthogonal(view="(heads d) e -> heads d e", sizes={"heads": 3})
    y = constraint.sample((6, 4))
    assert constraint.residual(y).shape == (3,)
    for block in y.reshape(3, 2, 4):
        assert bool(Orthogonal().contains(block))


@pytest.mark.parametrize(
    "view", ["c 1 h w -> c h w", "c () h w -> c h w", "(c 1) i h w -> c i h w"]
)
def test_an_axis_of_length_one_needs_no_name(view):
    constraint = Orthogonal(view=view)
    y = constraint.sample((4, 1, 3, 3))
    assert torch.equal(constraint.residual(y).flatten(), Orthogonal().residual(y).flatten())
    assert constraint(torch.zeros_like(y)).shape == y.shape


def test_an_axis_that_is_said_to_have_length_one_has():
    with pytest.raises(ShapeError, match=r"axis \(1\) of length 2 does not split"):
        Orthogonal(view="c 1 h w -> c h w").check_shape((4, 2, 3, 3))


def test_batch_is_a_view():
    assert Orthogonal(view="batch")(torch.zeros(2, 3, 3)).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "o i h w"}, "expected an einops pattern"),
        ({"view": "o i -> o j"}, "expected an einops pattern"),
        ({"view": "o i -> (o i)"}, "rows and columns"),
        ({"view": "(a b) c -> a b c", "sizes": {"d": 2}}, "its axes are a, b, c"),
        ({"sizes": {"heads": 2}}, "Give view= too"),
        ({"map": "expp"}, "expected one of 'exp', 'cayley'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Orthogonal(**options)


@pytest.mark.parametrize("shape", [(4, 3), (5, 3, 2, 2)])
def test_a_shape_that_the_view_does_not_fit_is_refused(shape):
    constraint = Orthogonal(view="(g o) i h w -> g o (i h w)", sizes={"g": 2})
    with pytest.raises(ShapeError, match=r"has 2 axes|does not split"):
        constraint.check_shape(shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Interval(1.0, 1.0),
        lambda: Interval(0.0, float("inf")),
        lambda: Interval(torch.tensor([0.0, 2.0]), 1.0),
        lambda: PositiveDefinite(1.0, 1.0),
        lambda: PositiveDefinite(float("nan")),
        lambda: PositiveDefinite(0.0, float("inf")),
    ],
)
def test_bounds_that_make_no_set_are_refused(make):
    with pytest.raises(OptionError, match="lower < upper"):
        make()


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex32], ids=str)
def test_numbers_too_short_to_compute_with_are_refused(dtype):
    for method in (Orthogonal(), Orthogonal().residual, Orthogonal().project):
        with pytest.raises(DtypeError, match=r"expected one of (bfloat16|complex64), .*Cast it"):
            method(torch.empty(3, 3, dtype=dtype))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sphere(True),
        lambda: Ordered(min_gap=True),
        lambda: BoundedSingularValues(0.0, True),
        lambda: LowRank(True),
    ],
)
def test_true_is_no_number(make):
    with pytest.raises(OptionError, match=r"=True: expected"):
        make()


@pytest.mark.parametrize("given", [None, "Exp", {}, 1])
@pytest.mark.parametrize("constraint", [Orthogonal, Rotation3D, PositiveDefinite])
def test_a_map_that_is_none(constraint, given):
    with pytest.raises(OptionError, match=r"map=.*: expected"):
        constraint(map=given)


def test_a_constant_that_learns_is_refused():
    with pytest.raises(OptionError, match=r"use an nn\.Module"):
        Interval(torch.zeros(2, requires_grad=True), 1.0)


def test_constants_are_values():
    bounds = torch.tensor([0.1, -0.0], dtype=torch.float64)
    a = Interval(bounds, 1.0)
    assert a == Interval([0.1, 0.0], 1.0)
    assert hash(a) == hash(Interval([0.1, 0.0], 1.0))
    assert a != Interval([0.1, 0.2], 1.0)
    assert repr(a) == "Interval(lower=[0.1, 0.0], upper=1.0)"
    for other in (eval(repr(a)), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert other == a
    bounds[0] = 0.9
    assert a == Interval([0.1, 0.0], 1.0)
    assert Interval(torch.tensor(0.5), 1.0) == Interval(0.5, 1.0)


def test_a_constant_is_made_once_for_each_dtype_whatever_surrounds_the_call():
    constraint = Interval(torch.tensor([0.0, -1.0]), 1.0)
    x = torch.zeros(3, 2)
    with torch.inference_mode():
        constraint(x)
    torch.func.vmap(torch.func.grad(lambda t: constraint(t).sum()))(x)
    made = constraint.lower.like(x)
    assert made is constraint.lower.like(x + 1)
    leaf = x.clone().requires_grad_()
    constraint(leaf).sum().backward()
    assert leaf.grad.tolist() == [[0.25, 0.5]] * 3
    assert constraint.lower.like(x.double()).dtype == torch.float64


def test_right_inverse_says_how_far_and_what_to_do():
    y = 1.5 * torch.eye(3)
    with pytest.raises(ConstraintViolation) as caught:
        Orthogonal().right_inverse(y)
    assert "2.17 away from Orthogonal()" in str(caught.value)
    remedy = str(caught.value).split("`")[1]
    assert torch.allclose(eval(remedy, {"Orthogonal": Orthogonal, "value": y}), torch.eye(3))


@pytest.mark.parametrize(
    ("short", "dtype"),
    [
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float64),
        (torch.float16, torch.float32),
        (torch.complex64, torch.complex128),
    ],
)
def test_the_dtype_that_a_value_was_rounded_to_is_named(short, dtype):
    constraint = Unitary() if short.is_complex else Orthogonal()
    y = constraint.sample((16, 16), dtype=dtype, generator=torch.Generator().manual_seed(0))
    name = str(short).removeprefix("torch.")
    with pytest.raises(ConstraintViolation, match=f"within the rounding of {name}:"):
        constraint.right_inverse(y.to(short).to(dtype))
    with pytest.raises(ConstraintViolation) as caught:
        constraint.right_inverse(2 * y)
    assert "within" not in str(caught.value)


def test_a_point_rounded_to_bfloat16_is_told_apart():
    y = Orthogonal().sample((16, 16)).bfloat16().float()
    with pytest.raises(ConstraintViolation, match="within the rounding of bfloat16"):
        Orthogonal().right_inverse(y)
    x, state = Orthogonal().right_inverse(y.bfloat16())
    assert x.dtype == torch.bfloat16
    assert state["base"].dtype == torch.float32
    assert float(Orthogonal().residual(state["base"])) < 1e-5


def test_state_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match="expected the shape of y"):
        Orthogonal()(torch.zeros(4, 2), base=torch.eye(4))


def test_matrices_are_refused_where_they_are_not_square():
    with pytest.raises(ShapeError, match=r"\(3, 2\); expected square matrices"):
        PositiveDefinite()(torch.zeros(3, 2))


def test_complex_numbers_have_no_order():
    with pytest.raises(DtypeError, match="real floating point"):
        NonNegative()(torch.zeros(2, dtype=torch.complex64))


def test_public_methods_are_final():
    with pytest.raises(TypeError, match="Implement the hook `_forward`"):

        @dataclass(frozen=True, repr=False)
        class Own(NonNegative):
            def forward(self, x):
                return x


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2), (2, 0, 0)], ids=str)
def test_empty_matrices_are_members(shape):
    constraint = Orthogonal()
    y = constraint(torch.zeros(shape))
    assert y.shape == shape
    assert bool(constraint.contains(y).all())


def columns(y):
    return y.T


def filters(y):
    return y.reshape(len(y), -1)


def first_and_last(y):
    return np.stack([y[:, j].reshape(-1) for j in range(y.shape[1])])


@pytest.mark.parametrize(
    ("dim", "shape", "as_rows"),
    [
        (-1, (4, 3), lambda y: y),
        (0, (4, 3), columns),
        (-2, (4, 3), columns),
        ((1, 2, 3), (4, 3, 2, 2), filters),
        ((-1, 1, -2), (4, 3, 2, 2), filters),
        ((0, 2), (4, 3, 2), first_and_last),
        (None, (4, 3, 2), lambda y: y.reshape(1, -1)),
        (None, (), lambda y: y.reshape(1, 1)),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_dim_says_which_axes_are_one_vector(dim, shape, as_rows):
    x = torch.randn(shape, dtype=torch.float64)
    y = Sphere(2.0, dim=dim)(x)
    rows, free = as_rows(y.numpy()), as_rows(x.numpy())
    expected = 2 * free / np.sqrt((free**2).sum(1, keepdims=True))
    assert np.abs(rows - expected).max() < 1e-15
    off = Sphere(2.0, dim=dim).residual(1.5 * y)
    assert off.numel() == len(rows)
    assert torch.allclose(off, torch.ones_like(off))
    assert Sphere(dim=dim).dimension(shape) == len(rows) * (rows.shape[1] - 1)
    for made in (Sphere(dim=dim).right_inverse(y / 2), Sphere(dim=dim).sample(shape)):
        assert made.shape == shape and made.is_contiguous()


@pytest.mark.parametrize("dim", [1.0, True, (), (0, "1"), "batch", [0, None]], ids=repr)
def test_a_dim_that_names_no_axis_is_refused(dim):
    with pytest.raises(OptionError, match="expected an axis such as -1"):
        Sphere(dim=dim)


@pytest.mark.parametrize("dim", [2, -3, (0, -2), (0, 1, 2)], ids=str)
def test_a_dim_that_the_tensor_does_not_have_is_refused(dim):
    with pytest.raises(ShapeError, match=r"\(4, 3\) has 2 axes; dim=.* Give another dim="):
        Sphere(dim=dim)(torch.zeros(4, 3))


def test_dim_is_part_of_the_value_of_a_set():
    assert Sphere(dim=[0, 1]) == Sphere(dim=(0, 1)) != Sphere(dim=(1, 0))
    assert repr(Sphere(2.0, dim=[0, 1])) == "Sphere(radius=2.0, dim=(0, 1))"
    assert repr(Sphere(dim=None)) == "Sphere(dim=None)"


def test_compiled_graphs_hold_constants_and_notice_other_ones():
    compiled = torch.compile(
        lambda constraint, x: constraint(x), fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(3, 2)
    low = torch.tensor([0.0, -1.0])
    for constraint in (
        Interval(low, low + 1),
        Interval(low, low + 2),
        Interval(low.clone(), low + 1),
        AffineSubspace([[1.0, 2.0]], [3.0]),
        AffineSubspace([[2.0, 1.0]], [3.0]),
    ):
        assert torch.equal(compiled(constraint, x), constraint(x))


def test_a_large_constant_is_compiled_as_one():
    many = AffineSubspace(torch.randn(50, 200))
    names = []

    def backend(graph, inputs):
        names.extend(node.name for node in graph.graph.nodes)
        return graph.forward

    x = torch.randn(200)
    torch.compiler.reset()
    y = torch.compile(many.forward, fullgraph=True, backend=backend)(x)
    assert torch.equal(y, many(x))
    assert len(names) < 60  # its 10,000 numbers are not among them
