from __future__ import annotations

import pytest

from mechstyle import errors


def test_each_error_can_be_caught_as_its_kind_and_as_the_builtin_it_refines() -> None:
    for name in ("TextError", "ModelError", "NonFiniteError", "FileError", "RangeError"):
        error = getattr(errors, name)
        assert issubclass(error, errors.InputError)
    assert issubclass(errors.InputError, (errors.MechstyleError, ValueError))
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.WorkError, RuntimeError)
    assert issubclass(errors.WorkError, errors.MechstyleError)
    assert not issubclass(errors.WorkError, errors.InputError)


def test_all_names_are_in_the_tree_drawn_at_the_top() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__


def test_an_input_error_is_a_value_error_to_callers_who_do_not_know_us() -> None:
    with pytest.raises(ValueError, match="layer"):
        raise errors.RangeError("layer must be ...")
