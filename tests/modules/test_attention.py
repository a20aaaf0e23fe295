"""Attention off the beaten track: the fused kernels of eval mode, masks, weights, nested tensors."""

import warnings

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .naive import (
    ENCODER,
    OPTIMIZERS,
    Naive,
    bounded,
    constrain,
    encoder_layer,
    equal,
    loss_of,
    orthogonal,
    train,
    value,
    y_of,
)

ATTENTION = {"in_proj_weight": bounded, "out_proj.weight": orthogonal, "in_proj_bias": torch.tanh}
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.fixture
def fused(monkeypatch):
    """Names of the fused kernels that were called."""
    called = []

    def watch(name):
        kernel = getattr(torch, name)

        def call(*args, **kwargs):
            called.append(name)
            return kernel(*args, **kwargs)

        monkeypatch.setattr(torch, name, call)

    watch("_native_multi_head_attention")
    watch("_transformer_encoder_layer_fwd")
    return called


def attention():
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    naive = Naive(module, ATTENTION)
    return constrain(module, ATTENTION), naive


def layers():
    module = encoder_layer()
    naive = Naive(module, ENCODER)
    return constrain(module, ENCODER), naive


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_attention_between_steps(mode, need_weights, fused):
    model, naive = attention()
    steps = [OPTIMIZERS["adam"](m.parameters()) for m in (model, naive)]
    inputs = torch.randn(3, 5, 8)

    def call(m):
        return m(inputs, inputs, inputs, need_weights=need_weights)

    for step in range(2):
        equal(
            *(train(m.train(), call, o, [step]) for m, o in zip((model, naive), steps, strict=True))
        )
        for m in (model, naive):
            m.train(False)
        fused.clear()
        with mode():
            got = call(model)
        assert fused == ["_native_multi_head_attention"]
        with torch.enable_grad():
            want = call(naive)
        equal(got[0], want[0])
        assert (got[1] is None) is (not need_weights)
        if need_weights:
            equal(got[1], want[1])


@pytest.mark.parametrize("average", [True, False])
def test_weights_and_masks(average):
    model, naive = attention()
    inputs = torch.randn(2, 4, 8)
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    options = {"key_padding_mask": padding, "attn_mask": causal, "average_attn_weights": average}
    outs = [m(inputs, inputs, inputs, **options) for m in (model, naive)]
    for got, want in zip(*outs, strict=True):
        equal(got, want)
    for out in outs:
        loss_of(out).backward()
    naive.assert_same(model)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_encoder_layer_between_steps(mode, fused):
    """The fused layer takes the weights of the attention without calling its forward."""
    model, naive = layers()
    steps = [OPTIMIZERS["sgd"](m.parameters()) for m in (model, naive)]
    inputs = torch.randn(3, 5, 8)
    for step in range(2):
        for m, optimizer in zip((model, naive), steps, strict=True):
            train(m.train(), lambda m: m(inputs), optimizer, [step])
            m.train(False)
        fused.clear()
        with mode():
            got = model(inputs)
        assert fused == ["_transformer_encoder_layer_fwd"]
        equal(got, naive(inputs))


def test_frozen_encoder_layer_takes_the_fused_kernel_with_grad_on(fused):
    model, naive = layers()
    model.eval().requires_grad_(False)
    inputs = torch.randn(3, 5, 8)
    got = model(inputs)
    assert fused == ["_transformer_encoder_layer_fwd"]
    equal(got, naive.train(False)(inputs))
    assert not any(y_of(model, n).requires_grad for n in ENCODER)


def test_nested_tensors_of_padded_sequences(fused):
    """In eval mode the encoder packs padded sequences into a nested tensor."""
    functions = {f"layers.{i}.{n}": f for i in range(2) for n, f in ENCODER.items()}
    model = nn.TransformerEncoder(encoder_layer(), 2)
    naive = Naive(model, functions).train(False)
    constrain(model, functions).eval()
    inputs = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nested tensors are a prototype
        got = model(inputs, src_key_padding_mask=padding)
    assert fused == ["_transformer_encoder_layer_fwd"] * 2
    want = naive(inputs, src_key_padding_mask=padding)
    equal(got[~padding], want[~padding])
    assert not got[padding].any()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_first_read_without_grad_costs_no_gradient(mode):
    """Evaluation before the first training step, on a cold cache."""
    model, naive = layers()
    inputs = torch.randn(3, 5, 8)
    model.eval()
    with mode():
        model(inputs)
    model.train()
    for m in (model, naive):
        loss_of(m(inputs)).backward()
    naive.assert_same(model)


def test_a_projection_that_stays_orthogonal():
    """The four blocks of an attention on sets of their own, three of them in one tensor."""
    model = nn.MultiheadAttention(8, 2)
    blocks = cp.Orthogonal(view="(qkv d) e -> qkv d e", sizes={"qkv": 3})
    constrain(model, {"in_proj_weight": blocks, "out_proj.weight": cp.Orthogonal()})
    start = value(model.in_proj_weight)
    train(model, lambda m: m(*torch.randn(3, 4, 2, 8)), OPTIMIZERS["adam"](model.parameters()))
    assert not torch.allclose(model.in_proj_weight, start)
    for block in (*value(model.in_proj_weight).chunk(3), value(model.out_proj.weight)):
        equal(block @ block.t(), torch.eye(8))
