"""Run by a test: modules with a warm cache go to a spawned process, and through a file.

python spawned.py FOLDER"""

import sys

import torch
from torch import multiprocessing, nn

import constrainedparams as cp


def modules():
    linear, lstm = nn.Linear(4, 4), nn.LSTM(3, 4)
    cp.register_constrained_parameter(linear, "weight", torch.tanh)
    cp.register_constrained_parameter(lstm, "weight_hh_l0", torch.tanh)
    lstm(torch.rand(2, 1, 3))[0].sum().backward()
    linear(torch.rand(2, 4)).sum().backward()
    return [(linear, "weight"), (lstm, "weight_hh_l0")]


def check(module, name):
    x = getattr(module, f"_{name}_unconstrained")
    assert torch.equal(getattr(module, name).detach(), torch.tanh(x.detach()))
    x.data.mul_(0.5)
    assert torch.equal(getattr(module, name).detach(), torch.tanh(x.detach()))
    x.grad = None
    getattr(module, name).sum().backward()
    assert x.grad is not None


def work(pairs, path):
    for module, name in pairs:
        check(module, name)
    model = torch.load(path, weights_only=False)
    assert isinstance(model[0], nn.Linear)
    check(model[0], "weight")


def main(folder):
    pairs, path = modules(), f"{folder}/model.pt"
    for module, _ in pairs:
        module.zero_grad()
    torch.save(nn.Sequential(pairs[0][0]), path)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(pairs, path))
    process.start()
    process.join(60)
    print(process.exitcode)


if __name__ == "__main__":
    main(sys.argv[1])
