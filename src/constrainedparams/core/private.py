"""Every private name of torch that the engine leans on, probed once when it is imported."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils import _named_member_accessor
from torch.optim.swa_utils import AveragedModel

missing: list[str] = []


def _probe(owner: Any, path: str, fallback: Any) -> Any:
    """The object at ``owner.path``, or ``fallback`` with the name remembered as missing."""
    found = owner
    for part in path.split("."):
        found = getattr(found, part, None)
        if found is None:
            missing.append(path)
            return fallback
    return found


disabled_torch_function = _probe(torch, "_C._disabled_torch_function_impl", None)
detach = _probe(torch, "_C.TensorBase.detach", torch.Tensor.detach)
is_leaf = _probe(torch, "_C.TensorBase.is_leaf", torch.Tensor.is_leaf)
requires_grad = _probe(torch, "_C.TensorBase.requires_grad", torch.Tensor.requires_grad)
set_requires_grad = _probe(torch, "_C.TensorBase.requires_grad_", torch.Tensor.requires_grad_)
transposed: type = _probe(nn, "modules.conv._ConvTransposeNd", nn.ConvTranspose2d)
convolution: type = _probe(nn, "modules.conv._ConvNd", nn.Conv2d)
tensor_grad = _probe(torch, "_C.TensorBase.grad", torch.Tensor.grad)
tensor_data = _probe(torch, "_C.TensorBase.data", torch.Tensor.data)
tracing_state: Callable[[], Any] = _probe(torch, "_C._get_tracing_state", lambda: None)
dispatch_modes: Callable[[], int] = _probe(torch, "_C._len_torch_dispatch_stack", lambda: 0)
_functorch_level = _probe(torch, "_C._functorch.peek_interpreter_stack", lambda: None)
_top_hooks = _probe(torch, "_C._autograd._top_saved_tensors_default_hooks", None)
_pop_hooks = _probe(torch, "_C._autograd._pop_saved_tensors_default_hooks", None)
_push_hooks = _probe(torch, "_C._autograd._push_saved_tensors_default_hooks", None)
tracing_context = _probe(torch, "_guards.TracingContext.try_get", lambda: None)
goes_on_to = _probe(torch, "_C._will_engine_execute_node", lambda _: True)
_engine = getattr(torch.autograd.Variable, "_execution_engine", None)
_run_backward = getattr(_engine, "run_backward", None)  # for speed alone
plain_getters = _probe(torch, "_C.DisableTorchFunctionSubclass", contextlib.nullcontext)
_python_node = _probe(torch, "_C._FunctionBase", torch.autograd.graph.Node)
_swap_tensor = _probe(_named_member_accessor, "swap_tensor", None)
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # builds for the CPU lack it

FLAT_WEIGHTS = "_flat_weights"  # where an RNN lists what its names hold
_AVERAGE = AveragedModel.update_parameters.__code__
PARAMETER_NEW = nn.Parameter.__new__.__code__
FUNCTIONAL_SWAP = getattr(_swap_tensor, "__code__", None)  # of torch.func.functional_call


def stream(x: Tensor) -> int | None:
    """The CUDA stream that work on ``x`` goes to now, -1 while it is captured; None on the CPU."""
    if not x.is_cuda or _raw_stream is None:
        return None
    return -1 if torch.cuda.is_current_stream_capturing() else int(_raw_stream(x.get_device()))


def transforming(x: Any) -> bool:
    """Whether torch.func, forward-mode AD, a tracer, a compiler or a CUDA graph looks on."""
    return bool(
        torch.compiler.is_compiling()
        or tracing_state() is not None
        or dispatch_modes()
        or _functorch_level() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or (x is not None and stream(x) == -1)
    )


def compiled_module() -> type[nn.Module] | None:
    """The class of what ``torch.compile(module)`` returns, when a compiler is loaded."""
    return getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)


def gradients(
    edges: tuple[Any, ...],
    inputs: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    create_graph: bool,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` that keeps the graph, without 5 µs of checks that hold anyway."""
    if _run_backward is None:
        return torch.autograd.grad(edges, inputs, cotangents, True, create_graph, allow_unused=True)
    return _run_backward(
        edges, cotangents, True, create_graph, inputs,
        allow_unreachable=True, accumulate_grad=False,
    )  # fmt: skip


def edge(output: Tensor) -> GradientEdge:
    """``get_gradient_edge``, without 3 µs of questions where the node is one of C++."""
    node = output.grad_fn
    if node is None or isinstance(node, _python_node):
        return get_gradient_edge(output)
    return GradientEdge(node, output.output_nr)


def saved_tensor_hooks() -> bool:
    """Whether somebody packs what operations save."""
    return _top_hooks is not None and _top_hooks(True) is not None


@contextmanager
def plain_saved_tensors() -> Iterator[None]:
    """No default saved-tensor hooks inside (activation checkpointing, offloading).

    They are popped: identity hooks above them would switch off autograd's version check.
    """
    held = []
    while saved_tensor_hooks():
        held.append(_top_hooks(True))
        _pop_hooks()
    try:
        yield
    finally:
        for hooks in reversed(held):
            _push_hooks(*hooks)


def called_by_average(frame: Any, x: Tensor) -> bool:
    """Whether an AveragedModel is about to write to ``x``: on CUDA that moves no version."""
    return frame.f_code is _AVERAGE and frame.f_locals["p_averaged"] is x


def called_by_tracer(frame: Any) -> bool:
    """Whether ``frame`` is a tracer of torch.fx, not of make_fx, that has met a tensor."""
    names = [f and f.f_globals.get("__name__") for f in (frame, frame and frame.f_back)]
    return names[0] == "torch.fx._symbolic_trace" and not names[1].endswith("proxy_tensor")
