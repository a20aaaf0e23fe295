"""Run by a test: modules with a warm cache go to a spawned process and come back changed."""

import torch
from torch import multiprocessing, nn

import constrainedparams as cp


def modules():
    linear, lstm = nn.Linear(4, 4), nn.LSTM(3, 4)
    cp.register_constrained_parameter(linear, "weight", torch.tanh)
    cp.register_constrained_parameter(lstm, "weight_hh_l0", torch.tanh)
    return {"Linear": (linear, "weight"), "LSTM": (lstm, "weight_hh_l0")}


def work(module, name, queue):
    x = getattr(module, f"_{name}_unconstrained")
    assert torch.equal(getattr(module, name).detach(), torch.tanh(x.detach()))
    getattr(module, name).sum().backward()
    assert x.grad is not None
    queue.put("ok")


def main():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for title, (module, name) in modules().items():
        y = getattr(module, name)
        y.sum().backward()
        module.zero_grad()
        if title == "LSTM":
            module(torch.rand(2, 1, 3))
        process = context.Process(target=work, args=(module, name, queue))
        process.start()
        answer = queue.get(timeout=30)
        process.join(30)
        print(title, answer)


if __name__ == "__main__":
    main()
