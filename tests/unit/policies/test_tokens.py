"""Tokens: exact at the limits, nearest bin elsewhere, and the round trip is the identity on tokens."""

import numpy as np
import pytest

from acceerl.policies.tokens import centres, detokenise, positions, tokenise


def test_limits_are_exact():
    assert tokenise(np.array([-1.0, 1.0])).tolist() == [0, 255]
    assert detokenise(np.array([0, 255])).tolist() == [-1.0, 1.0]


def test_out_of_range_goes_to_the_outermost_bins():
    assert tokenise(np.array([-3.0, 1.5])).tolist() == [0, 255]


@pytest.mark.parametrize("bins", [2, 3, 255, 256])
def test_every_token_survives_the_round_trip(bins):
    tokens = np.arange(bins, dtype=np.int16)
    assert np.array_equal(tokenise(detokenise(tokens, bins), bins), tokens)


def test_nearest_bin_against_a_search_over_all_centres():
    actions = np.random.default_rng(0).uniform(-1, 1, size=(50, 8, 7)).astype(np.float32)
    distance = np.abs(actions[..., None] - centres(256))
    chosen = np.abs(actions - detokenise(tokenise(actions)))
    assert np.allclose(chosen, distance.min(axis=-1), atol=1e-6)
    assert chosen.max() <= 1 / 255 + 1e-6


def test_shapes_and_dtypes():
    tokens = tokenise(np.zeros((2, 8, 7)))
    assert tokens.shape == (2, 8, 7)
    assert tokens.dtype == np.int16
    assert detokenise(tokens).dtype == np.float32


def test_positions_are_what_tokenise_rounds():
    assert positions(np.array([-1.0, 0.0, 1.0])).tolist() == [0.0, 127.5, 255.0]


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="at least 2 bins"):
        centres(1)
