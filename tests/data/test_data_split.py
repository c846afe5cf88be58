"""Stratified counts and splits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.data import stratified_counts, stratified_split


def test_counts_by_hand():
    # Shares of 5 over 6, 3, 1: 3.0, 1.5, 0.5. The one left over goes to the lower of two equal remainders.
    np.testing.assert_array_equal(stratified_counts(np.array([6, 3, 1]), 5), [3, 2, 0])
    # 4 over 1, 2, 7: 0.4, 0.8, 2.8; two left over go to the remainders 0.8, both.
    np.testing.assert_array_equal(stratified_counts(np.array([1, 2, 7]), 4), [0, 1, 3])
    np.testing.assert_array_equal(stratified_counts(np.array([0, 0]), 0), [0, 0])


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.data())
def test_counts_meet_the_total_and_stay_within_one_of_the_share(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    counts = stratified_counts(np.array(sizes), total)
    assert counts.sum() == total
    for count, size in zip(counts.tolist(), sizes, strict=True):
        share = Fraction(total * size, max(sum(sizes), 1))
        assert 0 <= count <= size
        assert abs(count - share) < 1


def test_what_a_class_may_not_give_others_give_by_hand():
    # Shares of 3 over 1, 1, 4: 0.5, 0.5, 2. The one left over would be that of class 0, which has no other.
    np.testing.assert_array_equal(stratified_counts(np.array([1, 1, 4]), 3), [1, 0, 2])
    np.testing.assert_array_equal(stratified_counts(np.array([1, 1, 4]), 3, leave=1), [0, 0, 3])
    # Shares of 4 over 2, 1, 3: 1.33, 0.67, 2; class 1 has no other, so class 0 is next.
    np.testing.assert_array_equal(stratified_counts(np.array([2, 1, 3]), 4), [1, 1, 2])
    with pytest.raises(ValueError, match="cannot take 4 of 6 images and leave 1 of every class"):
        stratified_counts(np.array([2, 1, 3]), 4, leave=1)
    np.testing.assert_array_equal(stratified_counts(np.array([0, 3]), 2, leave=1), [0, 2])
    # Two classes short: the third gives twice more than its share.
    np.testing.assert_array_equal(stratified_counts(np.array([1, 1, 9]), 8, leave=1), [0, 0, 8])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(0, 3), st.data())
def test_counts_leave_what_they_must_and_change_nothing_else(sizes, leave, data):
    room = [max(0, size - leave) for size in sizes]
    total = data.draw(st.integers(0, sum(room)))
    counts = stratified_counts(np.array(sizes), total, leave=leave).tolist()
    assert sum(counts) == total
    assert all(0 <= count <= most for count, most in zip(counts, room, strict=True))
    free = stratified_counts(np.array(sizes), total).tolist()
    if all(count <= most for count, most in zip(free, room, strict=True)):
        assert counts == free
    else:  # whoever could give its share gives at least that
        assert all(c >= min(f, most) for c, f, most in zip(counts, free, room, strict=True))


@pytest.mark.parametrize("total", [-1, 4])
def test_counts_refuse_an_impossible_total(total):
    with pytest.raises(ValueError, match="of 3 images"):
        stratified_counts(np.array([1, 2]), total)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.integers(0, 5), st.data())
def test_split_takes_each_class_in_proportion(labels, seed, data):
    y = np.array(labels)
    total = data.draw(st.integers(0, len(y)))
    taken = stratified_split(y, total, seed=seed)
    assert taken.shape == y.shape
    expected = stratified_counts(np.bincount(y), total)
    np.testing.assert_array_equal(np.bincount(y[taken], minlength=len(expected)), expected)
    np.testing.assert_array_equal(taken, stratified_split(y, total, seed=seed))


def test_split_of_a_class_does_not_depend_on_the_names_of_the_classes():
    y = np.array([0, 1, 1, 2, 0, 2, 2, 1, 0, 0, 1, 2])
    np.testing.assert_array_equal(stratified_split(y, 6, seed=1), stratified_split(2 - y, 6, seed=1))


def test_split_is_the_same_for_ever():
    # Written down once: a change of these numbers changes every result that used a validation set.
    taken = stratified_split(np.arange(30) % 3, 6, seed=6)
    np.testing.assert_array_equal(np.flatnonzero(taken), [10, 12, 16, 17, 21, 26])


def test_every_image_is_equally_likely():
    # 400 seeds take 8 of 20 images: each image 160 times on average, standard deviation 9.8.
    y = np.arange(20) % 4
    times = sum(stratified_split(y, 8, seed=seed).astype(int) for seed in range(400))
    assert np.all(np.abs(times - 160) < 5 * 9.8)
