"""Events from another thread reach their readers in order, with one wakeup for many."""

from __future__ import annotations

import asyncio
import threading

from mmbuild.serving.inbox import Inbox, Post


def test_what_arrives_together_is_taken_together_and_in_order() -> None:
    async def main() -> None:
        post, inbox, other = Post(asyncio.get_running_loop()), Inbox[int](), Inbox[int]()
        reading = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        assert not reading.done()
        for number in range(3):
            post.put(inbox, number)
        post.put(other, 9)
        post.send()
        assert await reading == [0, 1, 2]
        assert await other.take() == [9]

    asyncio.run(main())


def test_the_event_loop_is_woken_once_for_a_step() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wakeups = 0
        schedule = loop.call_soon_threadsafe

        def counted(*arguments):
            nonlocal wakeups
            wakeups += 1
            return schedule(*arguments)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        post, inboxes = Post(loop), [Inbox[int]() for _ in range(32)]

        def step() -> None:
            for number, inbox in enumerate(inboxes):
                post.put(inbox, number)
            post.send()
            post.send()

        thread = threading.Thread(target=step)
        thread.start()
        assert [await inbox.take() for inbox in inboxes] == [[number] for number in range(32)]
        thread.join()
        # The second call finds nothing to carry, unless the first has not been heard yet.
        assert wakeups in (1, 2)

    asyncio.run(main())


def test_many_senders_lose_nothing() -> None:
    async def main() -> None:
        post, inbox = Post(asyncio.get_running_loop()), Inbox[tuple[int, int]]()

        def send(sender: int) -> None:
            for number in range(2000):
                post.put(inbox, (sender, number))
                post.send()

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(3)]
        for thread in threads:
            thread.start()
        found: list[tuple[int, int]] = []
        while len(found) < 6000:
            found += await asyncio.wait_for(inbox.take(), 20)
        for sender in range(3):
            assert [number for own, number in found if own == sender] == list(range(2000))

    asyncio.run(main())


def test_an_event_loop_that_has_ended_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    post = Post(loop)
    post.put(Inbox[int](), 1)
    post.send()
