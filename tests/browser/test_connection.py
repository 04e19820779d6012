"""The web client in Chromium when it loses the network, the server or its sign-in."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.browser.people import NETWORK, Account, Desk, Window
from tests.support.server import PROGRAM, Server

Person = Callable[[str], Account]


@contextmanager
def running(database: str, port: int = 0, **settings: str) -> Iterator[Server]:
    """Starts a server that the test may kill."""
    command = [PROGRAM, "serve", "--port", str(port)]
    server = Server({"DATABASE_URL": database, **settings}, command=command).wait_ready()
    try:
        yield server
    finally:
        server.stop()


def test_a_page_that_was_offline_catches_up_exactly(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    at_ann = desk.sit_down(ann, f"/#/c/{chat}")
    context = desk.context(bob)
    at_bob = desk.window(context, allowed=NETWORK).open(f"/#/c/{chat}")
    at_ann.say("before")
    at_bob.expect_texts("before")
    at_bob.say("mine")
    at_ann.expect_texts("before", "mine")

    context.set_offline(True)
    expect(at_bob.page.get_by_text("You are offline.")).to_be_visible(timeout=20_000)
    at_bob.say("written offline")
    expect(at_bob.message("written offline").locator(".mark")).to_contain_text("Sending")
    at_bob.field.press("ArrowUp")  # a message under way cannot be edited, and an earlier one is not meant
    expect(at_bob.field).to_have_value("")
    missed = [f"missed {number}" for number in range(1, 31)]
    for text in missed:
        at_ann.say(text)
    at_ann.expect_texts("before", "mine", *missed)
    expect(at_ann.page.locator(".is-sending")).to_have_count(0)
    at_ann.field.press("ArrowUp")
    at_ann.say("missed 30, edited")
    missed[-1] = "missed 30, edited"
    at_ann.expect_texts("before", "mine", *missed)

    context.set_offline(False)
    at_bob.expect_texts("before", "mine", *missed, "written offline")
    at_ann.expect_texts("before", "mine", *missed, "written offline")
    expect(at_bob.page.locator(".banner")).to_be_hidden()
    assert ann.contents(chat) == ["before", "mine", *missed, "written offline"]


def test_messages_survive_a_killed_server(browser: Browser, database: str) -> None:
    with running(database) as server:
        ann, bob = (Account.register(server.base_url, name) for name in ("ann", "bob"))
        desk = Desk(browser, server.base_url)
        chat = ann.start_chat(bob)
        at_ann = desk.sit_down(ann, f"/#/c/{chat}", allowed=NETWORK)
        at_bob = desk.sit_down(bob, f"/#/c/{chat}", allowed=NETWORK)
        at_ann.say("before")
        at_bob.expect_texts("before")
        server.stop(signal.SIGKILL)
        expect(at_ann.page.locator(".banner")).to_contain_text("No connection.")
        at_ann.say("meanwhile 1").say("meanwhile 2")
        expect(at_ann.message("meanwhile 2").locator(".mark")).to_contain_text("Sending")
        with running(database, server.port):
            at_ann.page.get_by_role("button", name="Try now").or_(at_ann.field).first.click()
            both = ("before", "meanwhile 1", "meanwhile 2")
            at_ann.expect_texts(*both)
            at_bob.expect_texts(*both)
            at_bob.say("and after")
            at_ann.expect_texts(*both, "and after")
            expect(at_ann.page.locator(".is-sending, .is-failed")).to_have_count(0)
            expect(at_ann.page.locator(".banner")).to_be_hidden()
            assert bob.contents(chat) == [*both, "and after"]
            desk.leave()


def test_unsent_messages_survive_the_page(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    context = desk.context(ann)
    window = desk.window(context, allowed=NETWORK).open(f"/#/c/{chat}")
    window.expect_texts()
    context.set_offline(True)
    window.say("one").say("two")
    window.expect_texts("one", "two")
    window.page.close()
    context.set_offline(False)
    again = desk.window(context).open(f"/#/c/{chat}")
    again.expect_texts("one", "two")
    expect(again.page.locator(".is-sending")).to_have_count(0)
    assert bob.contents(chat) == ["one", "two"]
    again.page.reload()
    again.expect_texts("one", "two")
    assert again.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('pulse.outbox'))") == []


def test_a_rejected_message_can_be_retried_or_discarded(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    context = desk.context(ann)
    window = desk.window(context)
    refuses = True

    def between(socket: WebSocketRoute) -> None:
        """Rejects messages between the page and the server."""
        server = socket.connect_to_server()

        def from_page(text: str | bytes) -> None:
            frame: Any = json.loads(text)
            if frame["type"] != "message" or not refuses:
                return server.send(text)
            ids = {name: frame[name] for name in ("client_id", "conversation_id")}
            return socket.send(json.dumps({"type": "error", "code": "invalid_text", "content": "No, thanks", **ids}))

        socket.on_message(from_page)

    window.page.route_web_socket("**/api/chat/ws?*", between)
    window.open(f"/#/c/{chat}")
    window.say("please").say("never mind")
    expect(window.message("please").get_by_role("alert")).to_contain_text("Not sent: No, thanks")
    # A reload does not send it again.
    window.page.reload()
    window.expect_texts("please", "never mind")
    window.message("never mind").get_by_role("button", name="Discard").click()
    window.expect_texts("please")
    refuses = False
    window.message("please").get_by_role("button", name="Try again").click()
    expect(window.message("please").locator(".mark")).to_contain_text("Sent")
    assert bob.contents(chat) == ["please"]


def test_messages_arrive_while_the_connection_keeps_breaking(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    at_ann = desk.sit_down(ann, f"/#/c/{chat}")
    context = desk.context(bob)
    at_bob = desk.window(context, allowed=NETWORK).open(f"/#/c/{chat}")
    texts: list[str] = []
    for round_number in range(4):
        for number in range(10):
            texts.append(f"{round_number}.{number}")
            at_ann.say(texts[-1])
            if number in {2, 6}:
                context.set_offline(number == 2)
    at_bob.expect_texts(*texts)
    at_ann.expect_texts(*texts)
    seqs = at_bob.page.locator(".message").evaluate_all("(rows) => rows.map((row) => Number(row.dataset.seq))")
    assert seqs == list(range(1, 41))


def test_an_invalid_token_leads_to_the_sign_in(desk: Desk, person: Person) -> None:
    ann = person("ann")
    stale = Account(ann.base_url, ann.id, ann.username, ann.token[:-4] + "AAAA")
    window: Window = desk.sit_down(stale, allowed=r"status of 401|WebSocket connection to")
    expect(window.page.get_by_text("Your sign-in has ended.")).to_be_visible()
    assert window.page.evaluate("localStorage.getItem('pulse.session')") is None
