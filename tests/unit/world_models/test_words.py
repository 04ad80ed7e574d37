"""Instructions as vectors: what tells two of them apart, and what does not."""

from __future__ import annotations

import torch

from acceerl.world_models.words import Words, places


def test_equal_instructions_are_equal_and_others_differ():
    texts = ["open the top drawer", "close the top drawer", "open the top drawer"]
    vectors = Words(8)(texts)
    assert vectors.shape == (3, 8)
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_the_order_of_words_counts_and_their_case_does_not():
    cube, bowl, upper = Words(8)(["put the cube on the bowl", "put the bowl on the cube", "Put the CUBE on the bowl"])
    assert not torch.allclose(cube, bowl)
    assert torch.equal(cube, upper)


def test_a_vector_does_not_depend_on_its_neighbours():
    words = Words(8)
    alone = words(["go left"])[0]
    assert torch.allclose(words(["go right", "go left", "", "go left"])[1], alone)
    assert torch.allclose(words(["go right", "go left", "", "go left"])[3], alone)


def test_no_words_are_an_instruction_too():
    assert torch.isfinite(Words(8)(["", " "])).all()


def test_places_are_the_same_in_every_process():
    assert places("go left", 4096) == [854, 1896, 2026]
    assert all(0 <= place < 5 for place in places("put the cube on the bowl", 5))


def test_gradients_reach_the_words_that_were_said():
    words = Words(4)
    words(["go left"]).sum().backward()
    touched = words.vectors.weight.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert touched == sorted(places("go left", 4096))
