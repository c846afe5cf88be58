"""Data sets: real images as flat arrays, read once, cached, split always the same way; texts as tokens.

>>> from jaxnet import data
>>> digits = data.load("digits")
>>> digits
Dataset('digits', 1198 training, 240 validation, 359 test, image 8x8x1, 10 classes)
>>> data.normalise(digits.x_train[:2], digits.mean, digits.std).shape
(2, 64)
"""

from __future__ import annotations

from jaxnet.data import augment
from jaxnet.data.dataset import Dataset, normalise
from jaxnet.data.load import DEFAULT_VALIDATION_FRACTION, NAMES, load
from jaxnet.data.sequences import Sequences, Windows, check_tokens
from jaxnet.data.split import stratified_counts, stratified_split
from jaxnet.data.text import Text, text

__all__ = [
    "DEFAULT_VALIDATION_FRACTION",
    "NAMES",
    "Dataset",
    "Sequences",
    "Text",
    "Windows",
    "augment",
    "check_tokens",
    "load",
    "normalise",
    "stratified_counts",
    "stratified_split",
    "text",
]
