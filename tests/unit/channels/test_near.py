"""Messages in lent memory: they arrive whole, their memory comes back, and nonsense is refused by name."""

import pytest

from acceerl.channels.near import SMALLEST, Borrower, Lender, Proof, can_map
from acceerl.channels.wire import WireError, lent_notice, read_lent

TAG = 10


def fill(lender, size, value):
    message = lender.room(size)
    message[:] = value
    return message


def test_a_message_arrives_whole_and_its_memory_comes_back():
    lender, borrower = Lender(), Borrower()
    notice = lender.notice(TAG, fill(lender, 100_000, 7))
    tag, message = borrower.take(notice)
    assert (tag, len(message), set(message)) == (TAG, 100_000, {7})
    fill(lender, 100_000, 8)
    assert len(lender.slots) == 1, "the slot was free and another one was made"
    assert set(message) == {7}, "what was taken changed when its memory was written again"


def test_memory_that_is_still_lent_is_not_written():
    lender, borrower = Lender(), Borrower()
    notices = [lender.notice(TAG, fill(lender, 100_000, value)) for value in (1, 2, 3)]
    assert [int(borrower.take(notice)[1][0]) for notice in notices] == [1, 2, 3]
    assert len(lender.slots) == 3


@pytest.mark.parametrize("size", [SMALLEST - 1, 3 << 20])
def test_small_messages_and_those_beyond_the_limit_go_the_other_way(size):
    lender = Lender(most=1 << 20)
    message = fill(lender, size, 5)
    assert len(message) == size and lender.notice(TAG, message) is None
    assert not lender.slots


def test_a_notice_that_leads_nowhere_is_refused():
    with pytest.raises(WireError, match="cannot be mapped"):
        Borrower().take(lent_notice(TAG, 100, "65536:1/999/5"))
    with pytest.raises(WireError, match="cannot be mapped"):
        Borrower().take(lent_notice(TAG, 100, "nonsense"))


def test_a_notice_that_promises_more_than_is_lent_is_refused():
    lender = Lender()
    _, _, where = read_lent(lender.notice(TAG, fill(lender, SMALLEST, 1)))
    with pytest.raises(WireError, match="said to lie"):
        Borrower().take(lent_notice(TAG, 1 << 30, where))


def test_a_cut_notice_is_refused():
    with pytest.raises(WireError, match="says"):
        read_lent(lent_notice(TAG, 100, "65536:1/2/3")[:-2])


def test_only_who_can_map_the_proof_is_near():
    page = Proof()
    assert can_map(page.address)
    assert not can_map("") and not can_map("another-machine:" + page.address.partition(":")[2])
    where, _, address = page.address.partition(":")
    assert not can_map(f"{where}:{address}0"), "another inode"
