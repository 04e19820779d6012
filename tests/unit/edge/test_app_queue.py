"""The queue of an ASGI application that may end."""

import trio
import trio.testing

from pulse_trio.edge.server.app_queue import AppQueue


async def test_no_task_waits_for_an_application_that_has_ended() -> None:
    send, receive = trio.open_memory_channel[str](1)
    put = AppQueue(send.send)
    with trio.fail_after(10):
        await put("fits")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(put, "waits")
            await trio.testing.wait_all_tasks_blocked()
            put.end()
        await put("late")
    assert receive.receive_nowait() == "fits"
    assert receive.statistics().current_buffer_used == 0
