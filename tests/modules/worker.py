"""Run by a test: a spawned process trains a constrained model, sent and saved, and sends it back.

python worker.py FILE"""

import sys

import torch
from torch import multiprocessing, nn

import constrainedparams as cp


def make():
    encoder = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    cp.register_constrained_parameter(encoder.self_attn, "in_proj_weight", torch.tanh)
    lstm = nn.LSTM(3, 4, bidirectional=True)
    cp.register_constrained_parameter(lstm, "weight_hh_l0_reverse", torch.tanh)
    linear = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    return nn.ModuleDict({"encoder": encoder, "lstm": lstm, "linear": linear})


def loss_of(model):
    out = model["lstm"](torch.ones(5, 2, 3))[0].sum()
    return out + model["encoder"](model["linear"](torch.ones(2, 3, 4))).square().sum()


def check(model, state):
    """It is the model of the parent, and notices what is written to it here."""
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    lstm = model["lstm"]
    x, y = lstm._weight_hh_l0_reverse_unconstrained, lstm.weight_hh_l0_reverse
    x.data.mul_(2.0)
    assert torch.equal(lstm.weight_hh_l0_reverse, torch.tanh(x)) and not torch.equal(
        y, torch.tanh(x)
    )
    x.data.mul_(0.5)


def work(model, path, state, results):
    """``model`` was sent warm, and saved under ``path``; ``state`` is what is in it."""
    check(model, state)
    check(torch.load(path, weights_only=False), state)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    lstm = model["lstm"]
    want = torch.tanh(lstm._weight_hh_l0_reverse_unconstrained)
    assert torch.equal(lstm.weight_hh_l0_reverse, want)
    assert cp.Orthogonal().contains(model["linear"].weight)
    results.put({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def main(path):
    torch.manual_seed(0)
    model = make()
    loss_of(model).backward()  # the flat list of the LSTM holds the graph of this step
    model.zero_grad()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(model, path)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    # a copy: torch moves what it sends into shared memory
    process = context.Process(target=work, args=(make_copy(model), path, state, results))
    process.start()
    trained = results.get(timeout=60)
    process.join(60)
    if not process.exitcode and any((trained[n] != t.numpy()).any() for n, t in state.items()):
        print("trained")
    if all(torch.equal(t, state[n]) for n, t in model.state_dict().items()):
        print("unchanged")
    model.load_state_dict({n: torch.from_numpy(t) for n, t in trained.items()})
    assert cp.Orthogonal().contains(model["linear"].weight)


def make_copy(model):
    copy = make()
    copy.load_state_dict(model.state_dict())
    loss_of(copy).backward()
    copy.zero_grad()
    return copy


if __name__ == "__main__":
    main(sys.argv[1])
