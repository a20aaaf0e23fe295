"""Arguments of the wrong kind, for every public function: what was given, what is expected."""

import numpy
import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams import (
    ConstraintError,
    FixedEntries,
    GreaterThan,
    Interval,
    Orthogonal,
    Simplex,
)


def constrained():
    return cp.register_constrained_parameter(nn.Linear(3, 3), "weight", Orthogonal())


TOOLS = {
    "bake": cp.bake,
    "compile": cp.compile,
    "constraint_of": lambda m: cp.constraint_of(m, "weight"),
    "deferred_pullback": cp.deferred_pullback,
    "is_constrained": cp.is_constrained,
    "is_constrained_name": lambda m: cp.is_constrained(m, "weight"),
    "parameter_groups": cp.parameter_groups,
    "plain_state_dict": cp.plain_state_dict,
    "remove_constrained_parameter": lambda m: cp.remove_constrained_parameter(m, "weight"),
    "register_constrained_parameter": lambda m: cp.register_constrained_parameter(
        m, "weight", Orthogonal()
    ),
    "register_constrained_parameters": lambda m: cp.register_constrained_parameters(
        m, {"*": Orthogonal()}
    ),
    "retract": cp.retract,
    "share_source": lambda m: cp.share_constrained_parameter(m, "weight", nn.Linear(3, 3)),
    "share_target": lambda m: cp.share_constrained_parameter(constrained(), "weight", m),
    "statistics": cp.statistics,
    "summary": cp.summary,
    "temporarily": lambda m: cp.temporarily(m, "weight", torch.eye(3)).__enter__(),
    "updated": cp.updated,
    "updated_name": lambda m: cp.updated(m, "weight"),
    "violations": cp.violations,
}


@pytest.mark.parametrize("given", ["list", "tensor", "None"])
@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_no_module(tool, given):
    layer = constrained()
    wrong = {"list": [layer], "tensor": layer.weight, "None": None}[given]
    with pytest.raises(ConstraintError, match=r"expected an nn\.Module") as caught:
        tool(wrong)
    assert type(wrong).__name__ in str(caught.value)


def test_the_remedies_of_a_list_and_of_a_weight():
    layer = constrained()
    with pytest.raises(ConstraintError, match=r"nn.ModuleList\(modules\)"):
        cp.summary([layer])
    assert list(cp.summary(nn.ModuleList([layer]))) == ["0.weight"]
    with pytest.raises(ConstraintError, match="Give the module that holds the tensor"):
        cp.summary(layer.weight)


SETS = {
    "bound_text": (lambda: Interval("a", 1.0), "'a' is str; expected a number"),
    "bound_none": (lambda: Interval(None, 1.0), "None is NoneType; expected a number"),
    "flag_text": (lambda: Simplex(closed="yes"), "closed='yes': expected True or False"),
    "view_number": (lambda: Orthogonal(view=3), "expected an einops pattern"),
    "sizes_number": (lambda: Orthogonal(view="(h d) e -> h d e", sizes=3), "sizes=3: expected"),
    "list": (lambda: Orthogonal()([[1.0]]), "got list; expected a tensor"),
    "list_project": (lambda: Orthogonal().project([[1.0]]), "got list; expected a tensor"),
    "array": (lambda: Orthogonal().contains(numpy.eye(2)), "got ndarray; expected a tensor"),
    "length": (lambda: Orthogonal().sample(3), r"got the shape 3; expected a tuple"),
    "negative": (lambda: Orthogonal().sample((3, -3)), r"\(3, -3\); expected lengths of axes"),
    "half_a_row": (lambda: Orthogonal().sample((1.5, 3)), "expected lengths of axes"),
    "dtype_text": (lambda: Orthogonal().sample((3, 3), dtype="float32"), "such as torch.float64"),
    "seed": (lambda: Orthogonal().sample((3, 3), generator=0), r"manual_seed\(0\)"),
    "atol_text": (lambda: Orthogonal().contains(torch.eye(2), "1e-6"), "atol='1e-6': expected a"),
    "ragged": (
        lambda: GreaterThan([[1.0], [1.0, 2.0]]),
        "expected numbers in rows of equal length",
    ),
    "words": (lambda: GreaterThan(["a"]), "expected numbers in rows of equal length"),
    "complex_bound": (lambda: GreaterThan(1j), "1j is complex; expected a real bound"),
    "complex_bounds": (lambda: Interval(torch.tensor([1j]), 2.0), "expected a real bound"),
    "two_and_three": (lambda: Interval([0.0, 0.0], torch.ones(3)), r"\(2,\) and \(3,\); expected"),
    "entry_complex": (lambda: FixedEntries(MASK, 1j)(torch.ones(2)), "expected a complex tensor"),
    "base_text": (lambda: Orthogonal()(torch.eye(2), base="a"), "state 'base' is str; expected a"),
    "tolerance_text": (lambda: Orthogonal().tolerance("a"), "got str; expected a tensor"),
    "dimension_text": (lambda: Orthogonal().dimension((2, 2), "complex64"), "expected a dtype"),
    "nan_inverse": (lambda: Orthogonal().right_inverse(NAN), "4 of 4 entries are NaN"),
}
MASK = torch.tensor([True, False])
NAN = torch.full((2, 2), torch.nan)


@pytest.mark.parametrize(("wrong", "says"), SETS.values(), ids=SETS)
def test_a_set_says_what_it_expects(wrong, says):
    with pytest.raises(ConstraintError, match=says):
        wrong()


def test_given_entries_may_be_complex():
    y = FixedEntries(MASK, torch.tensor(1j))(torch.ones(2, dtype=torch.complex64))
    assert y.tolist() == [1j, 1]


FLAGS = {
    "project": lambda flag: cp.register_constrained_parameter(
        nn.Linear(3, 3), "weight", Orthogonal(), project=flag
    ),
    "dry_run": lambda flag: cp.register_constrained_parameters(
        nn.Linear(3, 3), {"weight": Orthogonal()}, dry_run=flag
    ),
    "inplace": lambda flag: cp.bake(constrained(), inplace=flag),
    "project_as_parametrization": lambda flag: cp.as_parametrization(Orthogonal(), project=flag),
    "on": lambda flag: cp.batch(constrained(), on=flag),
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_word_is_no_flag(name):
    with pytest.raises(ConstraintError, match="='no': expected True or False"):
        FLAGS[name]("no")


def test_a_name_with_a_dot_has_no_answer():
    model = nn.Sequential(constrained())
    with pytest.raises(ConstraintError, match="expected one without a dot") as caught:
        cp.is_constrained(model, "0.weight")
    assert eval(
        str(caught.value).split("`")[1], {"is_constrained": cp.is_constrained, "model": model}
    )
