"""The examples in the docstrings of every module run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import jaxnet

FOUND = [m.name for m in pkgutil.walk_packages(jaxnet.__path__, "jaxnet.")]
# The compiled kernel lies among the modules and is none.
MODULES = ["jaxnet", *(name for name in FOUND if not name.endswith("._csr"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
