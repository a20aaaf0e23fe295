"""A first session from beginning to end: train, stop, go on in another program, deliver."""

import io

import torch
from sklearn.datasets import load_iris
from torch import nn

from constrainedparams import (
    Interval,
    Orthogonal,
    register_constrained_parameter,
    remove_constrained_parameter,
    statistics,
)


def data():
    features, labels = load_iris(return_X_y=True)
    inputs = torch.tensor(features, dtype=torch.float32)
    return (inputs - inputs.mean(0)) / inputs.std(0), torch.tensor(labels)


def make():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    register_constrained_parameter(model[0], "weight", Orthogonal())
    register_constrained_parameter(model[2], "weight", Interval(-2.0, 2.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)


def train(model, optimizer, schedule, epochs):
    inputs, labels = data()
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


def saved(*parts):
    """What the parts hold, through a file, as a program that trusts nobody loads it."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_training_goes_on_from_a_checkpoint():
    """Thirty epochs, or twenty, a file and ten: the same numbers."""
    torch.manual_seed(0)
    straight = make()
    torch.manual_seed(0)
    first = make()
    torch.manual_seed(1)
    second = make()
    train(*straight, 30)
    train(*first, 20)
    for part, state in zip(second, saved(*first), strict=True):
        part.load_state_dict(state)
    train(*second, 10)
    for one, other in zip(straight[0].parameters(), second[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert statistics(second[0])["0.weight"].evaluations == 10


def test_it_learns_and_is_delivered_as_a_plain_model():
    torch.manual_seed(0)
    model, optimizer, schedule = make()
    inputs, labels = data()
    train(model, optimizer, schedule, 60)
    accuracy = (model(inputs).argmax(1) == labels).double().mean()
    assert accuracy > 0.95
    columns = model[0].weight.detach()
    torch.testing.assert_close(columns.T @ columns, torch.eye(4), rtol=0, atol=1e-5)
    assert model[2].weight.abs().max() <= 2.0
    model.eval()
    with torch.no_grad():
        want = model(inputs)
    for layer in (model[0], model[2]):
        remove_constrained_parameter(layer, "weight")
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    plain.load_state_dict(saved(model)[0])
    assert [type(m) for m in model] == [type(m) for m in plain]
    torch.testing.assert_close(plain(inputs).detach(), want, rtol=0, atol=1e-6)
