"""Embeddings: the options that look at the weight itself, or at its gradient."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .naive import OPTIMIZERS, Naive, Shifted, bounded, constrain, equal, loss_of, train, value

INDEX = torch.tensor([[0, 3, 3], [1, 2, 0]])


def test_the_padding_row_is_a_row_as_any_other_of_y():
    """torch keeps its gradient at zero; f says what its value is."""
    model = nn.Embedding(7, 3, padding_idx=1)
    with pytest.warns(UserWarning, match=r"row 1, which padding_idx .* Mask padded positions"):
        constrain(model, {"weight": cp.Sphere()})
    start = value(model.weight)
    train(model, lambda m: m(INDEX), OPTIMIZERS["adam"](model.parameters()))
    equal(model.weight[1], start[1])
    equal(model.weight.norm(dim=1), torch.ones(7))
    assert not torch.allclose(model.weight[0], start[0])


def test_a_padding_row_that_stays_zero_is_not_warned_of():
    model = constrain(nn.Embedding(7, 3, padding_idx=1), {"weight": cp.Interval(-1.0, 1.0)})
    equal(model.weight[1], torch.zeros(3))


def test_rows_that_were_not_looked_up_have_no_gradient():
    model = constrain(nn.Embedding(7, 3), {"weight": cp.Sphere()})
    loss_of(model(INDEX)).backward()
    touched = model._weight_unconstrained.grad.abs().sum(dim=1) > 1e-15
    assert touched.tolist() == [True, True, True, True, False, False, False]


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
def test_from_pretrained_is_frozen(cls):
    pretrained = torch.rand(7, 3)
    model = constrain(cls.from_pretrained(pretrained.clone()), {"weight": Shifted()})
    equal(model.weight, pretrained)
    assert not model.weight.requires_grad and not model(INDEX).requires_grad
    model.weight.requires_grad_(True)
    loss_of(model(INDEX)).backward()
    assert model._weight_unconstrained.grad.count_nonzero()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag_with_offsets_and_weights(mode):
    model = nn.EmbeddingBag(7, 3, mode=mode)
    naive = Naive(model, {"weight": bounded})
    constrain(model, {"weight": bounded})
    options = {"per_sample_weights": torch.rand(5)} if mode == "sum" else {}
    index, offsets = torch.tensor([0, 3, 3, 6, 2]), torch.tensor([0, 2])
    for m in (model, naive):
        loss_of(m(index, offsets, **options)).backward()
    naive.assert_same(model)


def test_tied_to_an_output_layer_by_hand():
    """The matrix of the embedding read twice in one forward: one evaluation."""
    model = constrain(nn.Embedding(7, 3), {"weight": bounded})
    x = value(model._weight_unconstrained).requires_grad_()

    def logits(weight):
        return nn.functional.embedding(INDEX, weight) @ weight.t()

    loss_of(model(INDEX) @ model.weight.t()).backward()
    loss_of(logits(bounded(x))).backward()
    equal(model._weight_unconstrained.grad, x.grad)
    counts = cp.statistics(model)["weight"]
    assert (counts.evaluations, counts.pullbacks) == (1, 1)
