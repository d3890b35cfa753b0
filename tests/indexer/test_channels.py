"""The queues between the stages."""

import threading

import pytest

from indexer.channels import Channel, ChannelClosed


def test_items_come_in_order_and_end() -> None:
    channel: Channel[int] = Channel(3, producers=2)
    for item in (1, 2, 3):
        channel.put(item)
    channel.finish()
    assert [channel.get(), channel.get()] == [1, 2]
    channel.finish()
    assert channel.get() == 3
    with pytest.raises(ChannelClosed):
        channel.get()


def test_a_full_channel_holds_its_producer_back() -> None:
    channel: Channel[int] = Channel(2)
    put: list[int] = []

    def produce() -> None:
        for item in range(20):
            channel.put(item)
            put.append(item)
        channel.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    for expected in range(20):
        # Two wait, one may be on its way.
        assert len(put) <= expected + 3
        assert channel.get() == expected
    thread.join()


@pytest.mark.parametrize("full", [False, True])
def test_abort_wakes_everybody(full: bool) -> None:
    channel: Channel[int] = Channel(1)
    channel.check()
    if full:
        channel.put(0)
    woken = []

    def wait() -> None:
        try:
            channel.put(1) if full else channel.get()
        except ChannelClosed:
            woken.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    channel.abort()
    for thread in threads:
        thread.join()
    assert len(woken) == 3
    for call in (channel.check, channel.get, lambda: channel.put(2)):
        with pytest.raises(ChannelClosed):
            call()
