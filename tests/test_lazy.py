"""Names that packages import when they are first needed: every one of them is there."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import graphsci

MODULES = ["graphsci"] + [
    found.name
    for found in pkgutil.walk_packages(graphsci.__path__, "graphsci.")
    if not found.name.endswith("__main__")  # it runs
]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_has_the_names_that_it_offers(name):
    module = importlib.import_module(name)
    offered = {*getattr(module, "__all__", ()), *getattr(module, "_HOMES", ())}
    missing = [word for word in sorted(offered) if not hasattr(module, word)]
    assert not missing


@pytest.mark.parametrize("name", ["graphsci", "graphsci.evaluation"])
def test_lazy_names_are_found_in_a_fresh_process(name):
    """Nothing that other tests imported helps."""
    code = (
        f"import {name} as p\n"
        "assert set(p._HOMES) <= set(p.__all__)\n"
        "[getattr(p, word) for word in dir(p)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'graphsci\.evaluation' has no attribute 'eye'"):
        graphsci.evaluation.eye  # noqa: B018
