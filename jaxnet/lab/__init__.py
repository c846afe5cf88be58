"""The laboratory: a study is a page; folders, resume, tables, comparisons and documents are here."""

import lazy_loader

# the names, one by one, stand in __init__.pyi; JAX is loaded by those that compute
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
