"""The web client in Chromium: keyboard, screen readers, colours, phones."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import keep
from tests.browser.people import PASSWORD, Account, Desk

Person = Callable[[str], Account]


def expect_accessible(page: Page) -> None:
    """Expects that axe finds no violation."""
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], rule["impact"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_every_screen_is_accessible(desk: Desk, person: Person, colours: str, size: tuple[int, int]) -> None:
    look = {"color_scheme": colours, "reduced_motion": "reduce", "viewport": {"width": size[0], "height": size[1]}}
    name = f"{colours}-{size[0]}"
    page = desk.window(desk.context(**look), allowed="status of 401").open().page
    expect(page.get_by_role("heading", name="Sign in to Pulse")).to_be_visible()
    expect_accessible(page)
    keep(page, f"{name}-sign-in")
    page.get_by_label("Username").fill("nobody")
    page.get_by_label("Password", exact=True).fill("not the password")
    page.keyboard.press("Enter")
    expect(page.locator("#password-problem")).to_be_visible()
    expect_accessible(page)

    ann, bob, cem = person("ann"), person("bob"), person("cem")
    window = desk.sit_down(ann, **look)
    page = window.page
    expect(page.get_by_text("No conversations yet.")).to_be_visible()
    expect_accessible(page)
    direct, group = ann.start_chat(bob), ann.start_group(bob, cem, name="Sunday hike")
    at_bob = desk.sit_down(bob, f"/#/c/{group}")
    at_bob.say("Who has the map?")
    expect(window.chat("Sunday hike").locator(".badge")).to_be_visible()
    expect_accessible(page)
    keep(page, f"{name}-list")

    window.go("Sunday hike")
    window.say("I do! https://example.org/map").say("🗺️")
    expect(window.page.locator(".message.is-read .mark").last).to_contain_text(f"Read by {bob.username}")
    at_bob.field.press_sequentially("Great")
    expect(page.locator(".typing")).to_be_visible()
    page.locator(".message").nth(1).focus()
    expect_accessible(page)
    keep(page, f"{name}-group")
    page.get_by_role("button", name="Details").click()
    expect_accessible(page)
    keep(page, f"{name}-details")
    page.keyboard.press("Escape")
    page.goto(f"{desk.base_url}/#/c/{direct}")
    expect(page.get_by_text("Your conversation begins here.")).to_be_visible()
    expect_accessible(page)
    page.goto(f"{desk.base_url}/#/")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("searchbox", name="Find people").fill(bob.username)
    page.locator("button.person").first.click()
    expect_accessible(page)
    keep(page, f"{name}-new")


def test_the_keyboard_alone_is_enough(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    window = desk.window(desk.context()).open()
    page = window.page
    keys = page.keyboard
    focused = page.locator(":focus")
    expect(page.get_by_label("Username")).to_be_focused()
    keys.type(ann.username)
    keys.press("Tab")
    expect(focused).to_have_text("Show")
    keys.press("Tab")
    keys.type(PASSWORD)
    keys.press("Enter")
    expect(page.get_by_text("No conversations yet.")).to_be_visible()

    keys.press("Tab")
    expect(focused).to_have_attribute("aria-label", "New conversation")
    keys.press("Enter")
    expect(page.get_by_role("searchbox", name="Find people")).to_be_focused()
    keys.type(bob.username)
    expect(page.locator("button.person")).to_have_count(1)
    keys.press("ArrowDown")
    keys.press("Space")
    expect(focused).to_have_attribute("aria-pressed", "true")
    keys.press("Tab")  # to "Make it a group"
    keys.press("Tab")
    expect(focused).to_have_text("Start chat")
    keys.press("Enter")
    expect(window.field).to_be_focused()

    keys.type("Frist")
    keys.press("Enter")
    keys.type("Second")
    keys.press("Enter")
    window.expect_texts("Frist", "Second")
    expect(page.locator(".is-sending")).to_have_count(0)
    keys.press("Shift+Tab")
    expect(focused).to_have_attribute("aria-label", "Messages")
    keys.press("ArrowUp")
    keys.press("ArrowUp")
    expect(page.locator(".message").first).to_be_focused()
    keys.press("Tab")
    expect(focused).to_have_attribute("aria-label", "Edit message")
    keys.press("Enter")
    expect(window.field).to_have_value("Frist")
    keys.press("ControlOrMeta+A")
    keys.type("First")
    keys.press("Enter")
    window.expect_texts("First", "Second")

    keys.press("Shift+Tab")
    keys.press("ArrowUp")
    expect(page.locator(".message").last).to_be_focused()
    keys.press("Tab")
    keys.press("Tab")
    expect(focused).to_have_attribute("aria-label", "Delete message")
    keys.press("Enter")
    expect(page.get_by_role("alertdialog")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("alertdialog")).to_have_count(0)
    expect(focused).to_have_attribute("aria-label", "Delete message")
    keys.press("Escape")
    expect(window.field).to_be_focused()

    # The list: arrows go through it, Enter opens.
    ann.start_group(bob, name="Another")
    expect(window.chats).to_have_count(2)
    page.get_by_role("searchbox", name="Search conversations").focus()
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    expect(window.chats.first).to_be_focused()
    keys.press("End")
    expect(window.chats.last).to_be_focused()
    keys.press("Enter")
    expect(window.field).to_be_focused()


def test_a_phone_shows_one_pane_at_a_time(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    ann.start_chat(bob)
    window = desk.sit_down(ann, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = window.page
    expect(page.locator(".thread-frame")).to_be_hidden()
    window.go(bob.username)
    expect(page.locator(".sidebar")).to_be_hidden()
    window.say("From my phone")
    expect(window.message("From my phone").locator(".mark")).to_contain_text("Sent")
    # There is no hovering: a tap shows what can be done.
    window.message("From my phone").tap()
    window.message("From my phone").get_by_role("button", name="Edit message").tap()
    window.say("From my telephone")
    window.expect_texts("From my telephone")
    page.get_by_role("link", name="All conversations").click()
    expect(page.locator(".sidebar")).to_be_visible()
    expect(window.chat(bob.username).locator(".chat-preview")).to_have_text("You: From my telephone")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_colours_follow_the_system_until_chosen(desk: Desk, person: Person) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(245, 243, 238)", "rgb(18, 22, 20)"
    page = desk.sit_down(person("ann"), color_scheme="dark").page
    expect(page.locator(".me")).to_be_visible()
    assert page.evaluate(paper) == dark
    page.get_by_role("button", name="Colours: follow system").click()
    page.get_by_role("button", name="Colours: light").wait_for()
    assert page.evaluate(paper) == light
    page.reload()
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    assert page.evaluate(paper) == light


def test_reduced_motion_stops_animations(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    window = desk.sit_down(ann, f"/#/c/{chat}", reduced_motion="reduce")
    window.say("Still")
    window.expect_texts("Still")
    window.page.get_by_role("button", name="Details").click()
    moving = "document.getAnimations().length"
    assert window.page.evaluate(moving) == 0
