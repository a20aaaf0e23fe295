"""Who imports whom, what importing costs, and that it changes nothing in torch."""

import ast
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import constrainedparams
from constrainedparams import Constraint

PACKAGE = Path(constrainedparams.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
CONTRACT = "sets.contract"
PRECISION = "numerics.precision"
SETS = {
    cls.__module__.removeprefix("constrainedparams.")
    for cls in vars(constrainedparams).values()
    if isinstance(cls, type) and issubclass(cls, Constraint) and cls is not Constraint
}
# What each part may import; a set, its own part without the other sets.
ALLOWED = {
    "errors": (),
    "numerics": ("errors", "numerics"),
    "sets": ("errors", "numerics", "sets"),
    "functions": ("errors", "functions", CONTRACT),
    "core": ("errors", "functions", "core", CONTRACT, PRECISION),
    "attach": ("errors", "functions", "core", "attach", CONTRACT, PRECISION),
    "tools": ("errors", "functions", "core", "attach", "sets", "tools"),
    "integrations": ("errors", "functions", "core", "attach", "sets", "tools", "integrations"),
    "testing": ("errors", "numerics", "sets", "core", "attach", "tools", "testing", ""),
    "": ("errors", "attach", "sets", "tools", "integrations"),  # those on demand
}


def name_of(path):
    """The module's name below the package: "sets.orthogonal", "sets" or "" for the door."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def imports(path):
    """Names below the package of all that ``path`` imports, anywhere in it."""
    package = name_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            root = ["constrainedparams", *filter(None, above)] if node.level else []
            origin = ".".join([*root, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "constrainedparams":
                below = name.removeprefix("constrainedparams").removeprefix(".")
                yield below if below in MODULES else below.rpartition(".")[0]


def within(name, part):
    return name == part or (part != "" and name.startswith(part + "."))


def test_the_package_under_test_is_installed():
    assert PACKAGE.parent == Path(sysconfig.get_path("purelib")).resolve()
    assert (PACKAGE / "py.typed").is_file()


def test_the_sets_are_found():
    assert {"sets.orthogonal", "sets.interval"} <= SETS
    assert CONTRACT in set(imports(PACKAGE / "sets" / "orthogonal.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_in_one_direction(path):
    name = name_of(path)
    part = name.split(".")[0]
    for other in imports(path):
        assert any(within(other, a) for a in ALLOWED[part]), f"{name or 'the door'} imports {other}"
        if part == "sets" and name != "sets":
            assert other not in SETS - {name}, f"{name} imports another set, {other}"
            assert name not in SETS or other != "sets", f"{name} imports through the list of sets"


def fresh(program):
    """What ``program`` prints as JSON in a new interpreter."""
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_importing_is_light():
    new = fresh(
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        "import constrainedparams\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    roots = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names)
    assert roots <= {"constrainedparams", "einops", "torch"}
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed", "torch.onnx", "torch.export")
    assert [name for name in new if name.startswith(heavy)] == []
    own = [name.split(".")[1] for name in new if name.startswith("constrainedparams.")]
    assert not {"testing", "integrations"} & set(own)


PATCHES = """
import copyreg, importlib, json, logging, sys, warnings
import torch, einops
import torch.optim.optimizer as optimizer

TYPES = [torch.nn.Module, torch.nn.Linear, torch.nn.RNN, torch.Tensor, torch._C.TensorBase,
         torch.nn.Parameter, type(torch.nn.Parameter), torch.optim.Optimizer, torch.optim.Adam,
         torch.autograd.Function]
PLACES = ["torch", "torch.nn", "torch.nn.functional", "torch.nn.parameter", "torch.autograd",
          "torch.autograd.graph", "torch.serialization", "torch.nn.modules.module",
          "torch.optim.optimizer", "torch.func", "torch.nn.utils.parametrize", "copy", "copyreg"]

def state():
    found = {}
    for cls in TYPES:
        found.update({f"{cls.__name__}.{k}": id(v) for k, v in vars(cls).items()})
    for place in PLACES:
        module = importlib.import_module(place)
        found.update({f"{place}.{k}": id(v) for k, v in vars(module).items()})
    found["filters"] = repr(warnings.filters)
    found["pickles"] = len(copyreg.dispatch_table)
    found["loggers"] = repr(logging.root.handlers)
    found["seed"] = torch.random.initial_seed()
    found["state"] = torch.random.get_rng_state().sum().item()
    found["grad"] = torch.is_grad_enabled()
    found["dtype"] = str(torch.get_default_dtype())
    found["threads"] = torch.get_num_threads()
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_"):
            found[name] = len(value) if hasattr(value, "__len__") else repr(value)
    for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"):
        found[name] = len(getattr(optimizer, name))
    return found

before = state()
import constrainedparams
after = state()
changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
print(json.dumps(sorted(changed)))
"""


def test_it_is_imported_anew_in_one_process():
    """As notebooks and hot reloading do: operations of torch are registered by name, once."""
    again = """if True:
        import importlib, sys
        import constrainedparams.numerics.stability
        importlib.reload(constrainedparams.numerics.stability)
        for name in [name for name in sys.modules if name.startswith("constrainedparams")]:
            del sys.modules[name]
        import torch, constrainedparams
        y = constrainedparams.Schur()(torch.zeros(2, 2))
        print(torch.compile(constrainedparams.Schur(), backend="aot_eager")(torch.zeros(2, 2)) - y)
    """
    ran = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, timeout=100)
    assert ran.stdout.split() == ["tensor([[0.,", "0.],", "[0.,", "0.]])"], ran.stderr


def test_importing_patches_nothing():
    assert fresh(PATCHES) == []
