"""Linear spaces of matrices, blocks and given entries: NumPy, SciPy and least squares."""

import numpy as np
import pytest
import scipy.linalg
import torch

from constrainedparams import (
    BlockDiagonal,
    Circulant,
    Diagonal,
    FixedEntries,
    LowerTriangular,
    Orthogonal,
    Parametrized,
    Sphere,
    Toeplitz,
    Traceless,
    UpperTriangular,
)
from constrainedparams.errors import DtypeError, OptionError, ShapeError

WIDE = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def toeplitz_basis(n, m):
    return [scipy.linalg.toeplitz(np.eye(n)[i], np.zeros(m)) for i in range(n)] + [
        scipy.linalg.toeplitz(np.zeros(n), np.eye(m)[j]) for j in range(1, m)
    ]


def entries(pattern):
    return [
        np.outer(np.eye(len(pattern))[i], np.eye(pattern.shape[1])[j])
        for i, j in np.argwhere(pattern)
    ]


def traceless_basis(n, m):
    off = entries(1 - np.eye(n))
    return off + [np.diag(np.eye(n)[i] - np.eye(n)[i - 1]) for i in range(1, n)]


SPACES = [
    (Toeplitz(), (3, 5), toeplitz_basis),
    (Toeplitz(), (4, 1), toeplitz_basis),
    (Circulant(), (4, 4), lambda n, m: [scipy.linalg.circulant(np.eye(n)[i]) for i in range(n)]),
    (Traceless(), (4, 4), traceless_basis),
    (LowerTriangular(), (4, 3), lambda n, m: entries(np.tri(n, m))),
    (UpperTriangular(), (3, 4), lambda n, m: entries(np.tri(m, n).T)),
    (Diagonal(), (3, 4), lambda n, m: entries(np.eye(n, m))),
    (
        BlockDiagonal(2),
        (4, 6),
        lambda n, m: entries(scipy.linalg.block_diag(*[np.ones((n // 2, m // 2))] * 2)),
    ),
    (FixedEntries(torch.eye(3, 4).bool()), (3, 4), lambda n, m: entries(1 - np.eye(n, m))),
]


@pytest.mark.parametrize(
    ("space", "shape", "basis"), SPACES, ids=lambda v: str(v) if not callable(v) else ""
)
@WIDE
def test_f_is_the_least_squares_fit_in_a_basis_of_the_space(space, shape, basis, dtype):
    x = torch.randn(shape, dtype=dtype)
    columns = np.stack([b.ravel() for b in basis(*shape)], axis=1)
    weights = scipy.linalg.lstsq(columns.astype(complex), x.numpy().ravel())[0]
    expected = (columns @ weights).reshape(shape)
    for y in (space(x), space.project(x)):
        assert np.abs(y.numpy() - expected).max() < 1e-14
    count = columns.shape[1] * (2 if dtype.is_complex else 1)
    assert space.dimension(shape, dtype) == count
    gap = np.linalg.norm(x.numpy() - expected) / np.linalg.norm(x.numpy())
    assert float(space.residual(x)) == pytest.approx(gap, rel=1e-12)


@pytest.mark.parametrize(
    ("space", "shape", "basis"), SPACES, ids=lambda v: str(v) if not callable(v) else ""
)
def test_members_stay_as_they_are_in_every_dtype(space, shape, basis):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        weights = torch.randn(space.dimension(shape)).to(dtype).tolist()
        y = sum(w * torch.from_numpy(b) for w, b in zip(weights, basis(*shape), strict=True)).to(
            dtype
        )
        assert bool(space.contains(y))
        if not isinstance(space, Traceless):  # whose trace is rounded
            assert torch.equal(space(space.right_inverse(y)), y)


def test_a_large_toeplitz_matrix_of_single_precision_is_one():
    y = torch.from_numpy(
        scipy.linalg.toeplitz(np.sin(np.arange(700)), np.cos(np.arange(500)))
    ).float()
    assert float(Toeplitz().residual(y)) == 0
    assert torch.equal(Toeplitz().project(y), y)
    off = y.clone()
    off[3, 4] += 1e-1
    assert not bool(Toeplitz().contains(off))


def test_a_trace_beside_large_entries_is_zero():
    y = Traceless()(torch.randn(50, 50) + 1e6 * torch.eye(50))
    assert abs(float(y.double().trace())) < 1e-4
    assert bool(Traceless().contains(y))
    assert not bool(Traceless().contains(torch.randn(50, 50) + 1e6 * torch.eye(50)))


def test_the_eigenvalues_of_a_circulant_matrix_are_a_fourier_transform():
    y = Circulant().sample((5, 5), dtype=torch.float64)
    found = np.sort_complex(np.linalg.eigvals(y.numpy()))
    assert np.abs(found - np.sort_complex(np.fft.fft(y[:, 0].numpy()))).max() < 1e-12


@pytest.mark.parametrize("diagonal", [0.0, 1.0, -2.5])
def test_a_given_diagonal_stays(diagonal):
    for constraint, half in ((LowerTriangular, np.tril), (UpperTriangular, np.triu)):
        w = Parametrized(torch.randn(3, 3), constraint(diagonal=diagonal))
        torch.optim.SGD(w.parameters(), lr=1.0).step(lambda: (w.y**2).sum().backward())
        y = w.y.detach().numpy()
        assert (np.diag(y) == diagonal).all() and (y == half(y)).all()
        assert np.abs(np.linalg.det(y) - diagonal**3) < 1e-6


def test_given_entries_never_move_and_free_ones_do():
    torch.manual_seed(0)
    values = torch.tensor([0.1, 0.2, 0.3])
    w = Parametrized(torch.randn(4, 3), FixedEntries([True, False, True], values))
    start = w.y.detach().clone()
    optimizer = torch.optim.AdamW(w.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        w.y.sum().backward()
        optimizer.step()
    assert torch.equal(w.y[:, [0, 2]], values[[0, 2]].expand(4, 2))
    assert bool((w.y[:, 1] < start[:, 1]).all())


def test_a_complex_constant_asks_for_a_complex_tensor():
    constraint = FixedEntries([True, False], [1j, 0j])
    assert constraint(torch.zeros(2, dtype=torch.complex64)).tolist() == [1j, 0]
    with pytest.raises(DtypeError, match=r"complex constant and got torch\.float32"):
        constraint(torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_blocks_are_those_of_scipy(dtype):
    torch.manual_seed(0)
    constraint = BlockDiagonal(3, Orthogonal())
    y = constraint.sample((2, 6, 3), dtype=dtype)
    for element in y:
        blocks = [element[2 * i : 2 * i + 2, i : i + 1].numpy() for i in range(3)]
        assert (scipy.linalg.block_diag(*blocks) == element.numpy()).all()
        for block in blocks:
            assert np.linalg.norm(block) == pytest.approx(1, abs=1e-6)
    _, state = constraint.right_inverse(y)
    assert state["base"].shape == y.shape
    moved, after = constraint.retract(torch.randn(6, 3, dtype=dtype), base=state["base"][0])
    assert float(moved.abs().max()) == 0
    assert bool(constraint.contains(after["base"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockDiagonal(0), "expected their number"),
        (lambda: BlockDiagonal(2, Sphere()), "a set of matrices"),
        (lambda: BlockDiagonal(2, Orthogonal(view="a b -> b a")), "without view="),
        (lambda: LowerTriangular(diagonal="1"), "expected None, or a finite number"),
        (lambda: UpperTriangular(diagonal=float("nan")), "expected None, or a finite number"),
        (lambda: FixedEntries(torch.ones(2)), "tensor of booleans"),
        (lambda: FixedEntries(True), "tensor of booleans"),
        (lambda: FixedEntries([True, False], [1.0, 2.0, 3.0]), "do not broadcast"),
        (lambda: FixedEntries([True, False], [1.0, float("inf")]), "expected finite numbers"),
    ],
)
def test_options_that_make_no_set_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_shapes_that_do_not_split_or_fit_are_refused():
    with pytest.raises(ShapeError, match=r"multiples of blocks=2"):
        BlockDiagonal(2).check_shape((3, 4))
    with pytest.raises(ShapeError, match=r"ends like that of the mask, \(2, 3\)"):
        FixedEntries(torch.ones(2, 3).bool()).check_shape((3, 2))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2), (2, 0, 0)], ids=str)
def test_empty_matrices_are_members(shape):
    spaces = [Toeplitz(), LowerTriangular(), UpperTriangular(), Diagonal()]
    for space in spaces + ([Circulant(), Traceless()] if shape[-1] == shape[-2] else []):
        y = space(torch.zeros(shape))
        assert y.shape == shape
        assert bool(space.contains(y).all())
        assert space.dimension(shape) == 0
