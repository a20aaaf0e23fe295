"""Every public name has an example in its docstring, and all examples run."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import constrainedparams

PREFIX = "constrainedparams."
MODULES = ["constrainedparams"] + [
    info.name for info in pkgutil.walk_packages(constrainedparams.__path__, PREFIX)
]
WITHOUT_EXAMPLE = {"extend_nn_module"}  # it changes nn.Module for good; tested with the engine
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0


@pytest.mark.parametrize("name", constrainedparams.__all__)
def test_public_name_is_documented(name):
    value = getattr(constrainedparams, name)
    own = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
    assert own, f"{name} has no docstring"
    error = isinstance(value, type) and issubclass(value, Exception)
    if not error and name not in WITHOUT_EXAMPLE:
        assert ">>> " in own, f"the docstring of {name} has no example"
