"""Tests of METHODS: each method has one row, and the row fits its params."""

from importlib import import_module
from pkgutil import iter_modules

from walrus_protocol import methods
from walrus_protocol.methods import METHODS

MODULES = [import_module(f"walrus_protocol.methods.{module.name}") for module in iter_modules(methods.__path__)]


def test_every_row_of_every_module_is_in_the_table_once() -> None:
    rows = [name for module in MODULES for name in getattr(module, "ROWS", {})]
    assert sorted(rows) == sorted(METHODS)


def test_every_struct_can_be_imported_from_the_package() -> None:
    structs = [name for module in MODULES for name, value in vars(module).items() if isinstance(value, type)]
    assert [name for name in structs if not hasattr(methods, name)] == []


def test_requests_are_ordered_by_a_param_that_they_must_have() -> None:
    without = [
        name for name, row in METHODS.items() if row.order_by and row.order_by not in row.params.__struct_fields__
    ]
    assert without == []


def test_a_method_that_runs_inline_sends_nothing_before_its_response_and_waits_for_no_other_request() -> None:
    inline = [row for row in METHODS.values() if row.inline]
    assert [row for row in inline if row.sends or row.order_by] == []
