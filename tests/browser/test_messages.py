"""The web client in Chromium: any text, any number of messages, edits and drafts."""

import time
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any, Final

import psycopg
import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import keep
from tests.browser.people import NETWORK, Account, Desk, Held, Window

Person = Callable[[str], Account]

HOSTILE: Final = {
    "script": "<script>window.hacked = 1</script>",
    "handler": "<img src=x onerror='window.hacked = 1'>",
    "svg": "<svg/onload=window.hacked=1>",
    "entities": "&lt;b&gt; &amp; &#60;script&#62;",
    "template": "${window.hacked = 1} {{constructor.constructor('window.hacked = 1')()}}",
    "javascript": "javascript:window.hacked=1",
    "markdown": "[click](javascript:window.hacked=1) **bold** `code`",
    "right to left": "مرحبا بالعالم 123 abc",
    "override": "\u202egnp.elpmaxe\u202c and on",
    "isolates": "\u2066\u2067\u2068 unclosed",
    "emoji": "👩🏽‍🚀 👨‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇪🇺 1️⃣ text",
    "combining": "Z̗̝̈a̖͇l͍g̩o e\u0301 ﷽",
    "blanks": "  two\n\n   lines\twith a tab  ",
    "sql": "'; DROP TABLE messages; --",
    "one word": "w" * 500,
}
OWNER: Final = "INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev) "
MANY: Final = 10_000


def expect_unharmed(window: Window) -> None:
    assert window.page.evaluate("window.hacked") is None
    for wide in ("document.documentElement", "document.querySelector('.scroller')"):
        assert window.page.evaluate(f"{wide}.scrollWidth <= {wide}.clientWidth"), f"{wide} is too narrow"


def test_hostile_texts_are_shown_as_text(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_group(bob, name="<img src=x onerror='window.hacked = 1'>")
    at_ann = desk.sit_down(ann, f"/#/c/{chat}")
    at_bob = desk.sit_down(bob, f"/#/c/{chat}", viewport={"width": 390, "height": 844})
    for number, text in enumerate(HOSTILE.values(), 1):
        at_ann.say(text)
        expect(at_bob.texts).to_have_count(number)
    shown = """[...document.querySelectorAll(".message .text")].map((text) => {
        const { unicodeBidi, direction } = getComputedStyle(text);
        return [text.textContent, text.childElementCount, text.dir, unicodeBidi, direction];
    })"""
    for window in (at_ann, at_bob):
        expect(window.texts).to_have_count(len(HOSTILE))
        found = window.page.evaluate(shown)
        assert [part[:4] for part in found] == [[text, 0, "auto", "isolate"] for text in HOSTILE.values()]
        directions = dict(zip(HOSTILE, (part[4] for part in found), strict=True))
        assert (directions["right to left"], directions["sql"]) == ("rtl", "ltr")
        expect_unharmed(window)
    assert ann.contents(chat) == list(HOSTILE.values())
    keep(at_bob.page, "hostile-texts")


def test_only_http_and_https_become_links(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    window = desk.sit_down(ann, f"/#/c/{chat}")
    text = (
        "See (https://example.org/a_(b)), http://example.org. <https://example.org/c?d=1&e=%22#f>! "
        "Not javascript:alert(1), data:text/html,x, file:///etc/passwd, https://example.org@evil.example, "
        "https://, ftp://example.org or \u202ehttps://example.org/turned\u202e"
    )
    window.say(text)
    links = window.page.locator(".text a")
    expect(links).to_have_text(
        [
            "https://example.org/a_(b)",
            "http://example.org",
            "https://example.org/c?d=1&e=%22#f",
            "https://example.org/turned",
        ]
    )
    for attribute, value in {"rel": "noopener noreferrer", "target": "_blank"}.items():
        assert set(links.evaluate_all(f"(links) => links.map((link) => link.getAttribute('{attribute}'))")) == {value}
    assert window.texts.first.evaluate("(text) => text.textContent") == text


def test_the_character_count_equals_the_service_limit(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    window = desk.sit_down(ann, f"/#/c/{chat}")
    send, count = window.page.get_by_role("button", name="Send"), window.page.locator(".count")
    window.field.fill("👍" * 3_000)
    expect(count).to_be_empty()
    window.field.fill("👍" * 3_990)
    expect(count).to_have_text("10 left")
    window.field.fill("👍" * 4_001)
    expect(count).to_have_text("1 too many")
    expect(send).to_be_disabled()
    window.field.press("Enter")
    expect(window.field).to_have_value("👍" * 4_001)
    window.say("👍" * 4_000)
    window.expect_texts("👍" * 4_000)
    expect(window.page.locator(".mark")).to_contain_text("Sent")
    assert bob.contents(chat) == ["👍" * 4_000]
    expect_unharmed(window)


def test_enter_sends_and_shift_enter_breaks_the_line(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    window = desk.sit_down(ann, f"/#/c/{chat}")
    window.field.press_sequentially("one")
    window.field.press("Shift+Enter")
    window.field.press_sequentially("two")
    window.field.press("Enter")
    window.field.press("Enter")  # nothing to send
    expect(window.texts).to_have_count(1)
    assert window.texts.first.evaluate("(text) => text.textContent") == "one\ntwo"


@pytest.fixture
def long_chat(shared_database: str, person: Person) -> tuple[Account, Account, str]:
    """Two people with 10,000 messages, over some days."""
    return fill_chat(shared_database, person, MANY)


def fill_chat(database: str, person: Person, messages: int) -> tuple[Account, Account, str]:
    """Stores messages of two people: the two, and the id of their conversation."""
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    with psycopg.connect(database) as connection:
        connection.execute(
            OWNER + "SELECT gen_random_uuid(), %s, CASE WHEN n / 3 %% 2 = 0 THEN %s::uuid ELSE %s::uuid END, "
            "'Message ' || n || CASE WHEN n %% 7 = 0 THEN repeat(' and some more of it', n %% 30) ELSE '' END, "
            "now() - (%s - n) * interval '1 minute', now(), n, n FROM generate_series(1, %s) AS n",
            (chat, ann.id, bob.id, messages, messages),
        )
        heads = "UPDATE conversations SET last_seq = %s, last_rev = %s, message_rev = %s WHERE id = %s"
        connection.execute(heads, (messages, messages, messages, chat))
    return ann, bob, chat


IDLE_SECONDS: Final = 45  # without a change while scrolling; a request of the page may take 30 seconds
# Steps of scrolling, and what is in view after each. Waits for what the page loads.
SCROLL: Final = """
async ([step, first, idleSeconds]) => {
  const scroller = document.querySelector(".scroller");
  const frame = () => new Promise((resolve) => {
    requestAnimationFrame(() => requestAnimationFrame(resolve));
    setTimeout(resolve, 1_000); // a browser that draws nothing calls no frame
  });
  const result = { steps: [], nodes: 0 };
  for (let turn = 0; turn < 40; turn += 1) {
    scroller.scrollTop += step;
    await frame();
    const isLoading = () => step < 0 && scroller.scrollTop < 50 && !document.querySelector(".start");
    const deadline = performance.now() + idleSeconds * 1_000;
    while (isLoading()) {
      if (performance.now() > deadline) throw new Error("no older messages came");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const { top, bottom } = scroller.getBoundingClientRect();
    const rows = [...document.querySelectorAll(".message")];
    const seqs = rows.map((row) => Number(row.dataset.seq));
    const boxes = rows.map((row) => row.getBoundingClientRect());
    const inView = seqs.filter((_, index) => boxes[index].bottom > top && boxes[index].top < bottom);
    result.steps.push(inView);
    result.nodes = Math.max(result.nodes, document.querySelectorAll("*").length);
    if (seqs.some((seq, index) => index > 0 && seq !== seqs[index - 1] + 1)) throw new Error(`not in order: ${seqs}`);
    if (inView.includes(first)) break;
  }
  return result;
}
"""


def scroll(window: Window, step: int, goal: int) -> tuple[list[list[int]], int]:
    """Scrolls until a message is in view; the seqs in view after every step, and the most elements there were."""
    views: list[list[int]] = [window.page.evaluate(SCROLL, [0, 0, IDLE_SECONDS])["steps"][0]]
    nodes = 0
    changed_at = time.monotonic()
    while goal not in views[-1]:
        assert len(views) < 1_500, views[-1]
        assert time.monotonic() - changed_at < IDLE_SECONDS, f"stuck at {views[-1]}"
        result: Any = window.page.evaluate(SCROLL, [step, goal, IDLE_SECONDS])
        if any(view != views[-1] for view in result["steps"]):
            changed_at = time.monotonic()
        views += result["steps"]
        nodes = max(nodes, result["nodes"])
    return views, nodes


def test_ten_thousand_messages_scroll_by_in_order(desk: Desk, long_chat: tuple[Account, Account, str]) -> None:
    ann, bob, chat = long_chat
    window = desk.sit_down(ann, f"/#/c/{chat}", viewport={"width": 1280, "height": 1700})
    expect(window.texts.last).to_contain_text(f"Message {MANY}")
    up, nodes = scroll(window, -1_400, 1)
    assert nodes < 5_000
    seen = {seq for view in up for seq in view}
    assert seen == set(range(1, MANY + 1))
    for before, after in pairwise(up):
        # What was in view stays where it is while older messages come in: nothing is skipped, nothing jumps back.
        assert after[0] <= before[0] <= after[-1] + 1, (before, after)
    expect(window.page.get_by_text("Your conversation begins here.")).to_be_visible()

    # A message that arrives meanwhile moves nothing, and is announced.
    view = up[-1]
    desk.sit_down(bob, f"/#/c/{chat}").say("Are you there?")
    expect(window.page.locator(".jump")).to_have_text("1")
    expect(window.page.locator("#live")).to_have_text(f"{bob.username}: Are you there?")
    assert scroll(window, 0, view[0])[0][-1] == view
    down, nodes = scroll(window, 1_400, 600)
    assert nodes < 5_000
    assert {seq for part in down for seq in part} >= set(range(view[-1], 600))
    window.page.get_by_role("button", name="Go to the newest message").click()
    expect(window.texts.last).to_have_text("Are you there?")
    expect(window.texts.last).to_be_in_viewport()
    expect(window.page.locator(".jump")).to_be_hidden()


def test_older_messages_come_though_requests_fail(desk: Desk, shared_database: str, person: Person) -> None:
    ann, _, chat = fill_chat(shared_database, person, 400)
    context = desk.context(ann, viewport={"width": 1280, "height": 1700})
    window = desk.window(context, allowed=rf"{NETWORK}|status of 429")
    failures = count()

    def fail_most(route: Route) -> None:
        """Answers three requests of four with an error."""
        kind = next(failures) % 4
        if kind == 0:
            return route.abort()
        if kind == 1:
            return route.fulfill(status=503, json={"code": "unavailable", "message": "Try again"})
        if kind == 2:
            return route.fulfill(
                status=429, headers={"Retry-After": "1"}, json={"code": "rate_limited", "message": "Slower"}
            )
        return route.continue_()

    window.page.route("**/messages?*before_seq*", fail_most)
    window.open(f"/#/c/{chat}")
    expect(window.texts.last).to_contain_text("Message 400")
    # The machine's clock is set back again and again; waits must not depend on it.
    window.page.evaluate("{ const now = Date.now; Date.now = () => now() - 60_000 * performance.now(); }")
    up, _ = scroll(window, -1_400, 1)
    assert {seq for view in up for seq in view} == set(range(1, 401))


def test_typing_during_an_edit_starts_the_next_message(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    window = desk.sit_down(ann, f"/#/c/{chat}", allowed=NETWORK)
    window.say("one")
    expect(window.page.locator(".is-sending")).to_have_count(0)
    held = Held(window.page, "**/messages/*")
    window.field.press("ArrowUp")
    window.say("two")
    window.field.press_sequentially("three")
    held.wait().routes[0].continue_()
    window.expect_texts("two")
    expect(window.field).to_have_value("three")
    window.field.press("Enter")
    window.expect_texts("two", "three")
    assert len(held.routes) == 1

    # A text that could not be saved returns to the field.
    expect(window.page.locator(".is-sending")).to_have_count(0)
    window.page.unroute("**/messages/*")
    window.page.route("**/messages/*", lambda route: route.abort())
    window.field.press("ArrowUp")
    window.say("four")
    expect(window.page.locator(".toast")).to_contain_text("could not be edited")
    expect(window.field).to_have_value("four")
    expect(window.page.get_by_text("Editing a message")).to_be_visible()


def test_drafts_and_edits_stay(desk: Desk, person: Person) -> None:
    ann, bob, cem = person("ann"), person("bob"), person("cem")
    with_bob, _ = ann.start_chat(bob), ann.start_chat(cem)
    window = desk.sit_down(ann, f"/#/c/{with_bob}")
    window.say("one")
    expect(window.page.locator(".is-sending")).to_have_count(0)
    window.field.press("ArrowUp")
    window.field.fill("one, edited for long")
    window.go(cem.username)
    expect(window.field).to_have_value("")
    window.field.fill("a draft")
    window.go(bob.username)
    expect(window.page.get_by_text("Editing a message")).to_be_visible()
    expect(window.field).to_have_value("one, edited for long")
    window.field.press("Enter")
    window.expect_texts("one, edited for long")
    window.field.fill("half a mess")
    window.page.reload()
    expect(window.field).to_have_value("half a mess")
    window.go(cem.username)
    expect(window.field).to_have_value("a draft")


def test_deleting_an_edited_message_ends_the_edit(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    group = bob.start_group(ann)
    window = desk.sit_down(ann, f"/#/c/{group}")
    window.say("one")
    expect(window.page.locator(".is-sending")).to_have_count(0)
    window.field.press("ArrowUp")
    window.field.fill("a long correction")
    path = f"/api/chat/conversations/{group}/messages"
    (message,) = bob.ask("GET", path)["messages"]
    bob.ask("DELETE", f"{path}/{message['id']}")  # its owner may
    expect(window.page.locator(".toast")).to_have_text("The message you were editing was deleted.")
    expect(window.page.get_by_text("Editing a message")).to_be_hidden()
    expect(window.field).to_have_value("a long correction")
    window.field.press("Enter")
    window.expect_texts("Message deleted", "a long correction")
