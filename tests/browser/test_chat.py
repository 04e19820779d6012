"""The web client in Chromium: what people do with it."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import keep
from tests.browser.people import NETWORK, PASSWORD, Account, Desk, Held, Window

Person = Callable[[str], Account]
REFUSED = r"the server responded with a status of 4\d\d"


def sign_up(window: Window, username: str) -> None:
    page = window.open().page
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.locator(".me")).to_have_text(username)


def find(window: Window, *names: str) -> None:
    """Chooses people in the open dialog."""
    for name in names:
        window.page.get_by_role("searchbox", name="Find people").fill(name[:-1])
        window.page.locator("button.person", has_text=re.compile(f"^\\w*{re.escape(name)}$")).click()


def test_two_people_sign_up_find_each_other_and_chat(desk: Desk) -> None:
    ann, bob = desk.window(desk.context()), desk.window(desk.context())
    sign_up(ann, "Ann")
    sign_up(bob, "Bob")
    expect(ann.page.get_by_text("No conversations yet.")).to_be_visible()
    keep(ann.page, "empty")

    ann.page.get_by_role("button", name="New conversation").click()
    find(ann, "Bob")
    keep(ann.page, "new-conversation")
    ann.page.get_by_role("button", name="Start chat").click()
    expect(ann.page.get_by_text("Your conversation begins here.")).to_be_visible()
    ann.say("Hello, Bob!")

    # The conversation appears in the other page by itself, with its unread count.
    expect(bob.chat("Ann").locator(".badge")).to_contain_text("1 unread")
    expect(bob.page).to_have_title("(1) Pulse")
    expect(ann.message("Hello, Bob!").locator(".mark")).to_contain_text("Sent")
    bob.go("Ann")
    bob.expect_texts("Hello, Bob!")
    expect(bob.chat("Ann").locator(".badge")).to_have_count(0)
    expect(bob.page).to_have_title("Ann – Pulse")
    expect(ann.message("Hello, Bob!").locator(".mark")).to_contain_text("Read by Bob")

    bob.field.press_sequentially("Hello, A")
    expect(ann.page.locator(".typing")).to_have_text("Bob is typing")
    expect(ann.chat("Bob").locator(".chat-preview")).to_have_text("typing …")
    bob.say("Hello, Ann!")
    ann.expect_texts("Hello, Bob!", "Hello, Ann!")
    expect(ann.page.locator(".typing")).to_be_hidden()
    expect(ann.page.locator("#live")).to_have_text("Bob: Hello, Ann!")
    keep(ann.page, "one-to-one")

    expect(ann.page.locator(".thread-title p")).to_have_text("Online")
    expect(ann.chat("Bob").locator(".dot.is-online")).to_be_visible()
    bob.page.close()
    expect(ann.page.locator(".thread-title p")).to_contain_text("Last seen")
    expect(ann.chat("Bob").locator(".dot.is-online")).to_have_count(0)


def test_account_errors_are_shown_at_their_field(desk: Desk, person: Person) -> None:
    taken = person("taken")
    window = desk.window(desk.context(), allowed=REFUSED).open()
    page = window.page
    username, password = page.get_by_label("Username"), page.get_by_label("Password", exact=True)
    username.press("Enter")
    expect(page.locator("#username-problem")).to_have_text("Enter a username.")
    expect(username).to_be_focused()
    username.fill(taken.username)
    password.fill("not the password")
    password.press("Enter")
    expect(page.locator("#password-problem")).to_have_text("Username or password is wrong.")
    expect(password).to_be_focused()
    keep(page, "sign-in-refused")

    page.get_by_role("button", name="Create an account").click()
    expect(page.locator("#password-problem")).to_be_hidden()
    password.fill("short")
    password.press("Enter")
    expect(page.locator("#password-problem")).to_have_text("Use at least 8 characters.")
    password.fill(PASSWORD)
    password.press("Enter")
    expect(page.locator("#username-problem")).to_have_text("This name is taken. Try another one.")
    username.fill("no blanks, please")
    username.press("Enter")
    expect(page.locator("#username-problem")).to_contain_text("The username ")
    expect(username).to_have_attribute("aria-invalid", "true")
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_a_sign_in_for_one_tab_stays_in_that_tab(desk: Desk, person: Person) -> None:
    ann = person("ann")
    window = desk.window(desk.context()).open()
    page = window.page
    page.get_by_label("Username").fill(ann.username)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Keep me signed in").uncheck()
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".me")).to_have_text(ann.username)
    assert page.evaluate("localStorage.getItem('pulse.session')") is None
    page.reload()
    expect(page.locator(".me")).to_have_text(ann.username)
    assert ann.token[:20] not in page.url


def test_a_group_is_created_renamed_and_left(desk: Desk, person: Person) -> None:
    ann, bob, cem = person("ann"), person("bob"), person("cem")
    at_ann, at_bob, at_cem = desk.sit_down(ann), desk.sit_down(bob), desk.sit_down(cem)
    page = at_ann.page
    page.get_by_role("button", name="New conversation").click()
    find(at_ann, bob.username)
    page.get_by_label("Make it a group").check()
    page.get_by_label("Name of the group").fill("Hikers")
    page.get_by_role("button", name="Create group").click()
    expect(page.get_by_text("The group begins here.")).to_be_visible()
    at_bob.go("Hikers").say("I am in")
    at_ann.expect_texts("I am in")

    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog")
    find(at_ann, cem.username)
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("heading", name="3 people")).to_be_visible()
    dialog.get_by_label("Name", exact=True).fill("Sunday hikers")
    dialog.get_by_role("button", name="Save").click()
    expect(at_bob.page.locator(".thread-title h1")).to_have_text("Sunday hikers")
    keep(page, "details")
    at_cem.go("Sunday hikers").expect_texts("I am in")
    expect(at_cem.page.locator(".message-name")).to_have_text(bob.username)

    dialog.get_by_role("button", name=f"Remove {cem.username}").click()
    page.get_by_role("alertdialog", name="Remove").get_by_role("button", name="Remove", exact=True).click()
    expect(at_cem.page.get_by_text("You are no longer in “Sunday hikers”.")).to_be_visible()
    expect(at_cem.chats).to_have_count(0)
    expect(dialog.get_by_role("heading", name="2 people")).to_be_visible()

    at_bob.page.get_by_role("button", name="Details").click()
    at_bob.page.get_by_role("button", name="Leave group").click()
    at_bob.page.get_by_role("button", name="Leave", exact=True).click()
    expect(at_bob.chats).to_have_count(0)
    expect(dialog.get_by_role("heading", name="1 person")).to_be_visible()


def test_fields_of_the_details_survive_updates(desk: Desk, person: Person) -> None:
    ann, bob, cem = person("ann"), person("bob"), person("W" * 24)
    group = ann.start_group(bob, name="Hikers")
    at_ann = desk.sit_down(ann, f"/#/c/{group}")
    page = at_ann.page
    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog", name="Details")
    description = dialog.get_by_label("Description")
    description.fill("Every Sunday")
    find(at_ann, cem.username)
    dialog.get_by_role("heading", name="Details").click()  # no field has the focus
    at_bob = desk.sit_down(bob, f"/#/c/{group}")
    expect(dialog.locator(".person", has_text=bob.username).locator(".hint")).to_have_text("Online")
    expect(description).to_have_value("Every Sunday")
    expect(dialog.locator(".chip")).to_have_count(1)

    # Changes by others are shown, and saving does not undo them.
    at_bob.page.get_by_role("button", name="Details").click()
    at_bob.page.get_by_label("Name", exact=True).fill("Walkers")
    at_bob.page.get_by_role("button", name="Save").click()
    expect(dialog.get_by_label("Name", exact=True)).to_have_value("Walkers")
    expect(page.locator(".start")).to_contain_text("Walkers")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("heading", name="3 people")).to_be_visible()
    expect(dialog.locator(".chip")).to_have_count(0)
    expect(at_bob.page.get_by_label("Description")).to_have_value("Every Sunday")
    expect(at_bob.page.get_by_label("Name", exact=True)).to_have_value("Walkers")

    # The longest name breaks nothing, and a question says what is asked.
    assert dialog.evaluate("element => element.scrollWidth <= element.clientWidth")
    dialog.get_by_role("button", name=f"Remove {cem.username}").click()
    question = page.get_by_role("alertdialog", name=f"Remove {cem.username} from this group?")
    assert question.evaluate("element => element.scrollWidth <= element.clientWidth")
    question.get_by_role("button", name="Cancel").click()
    expect(dialog.get_by_role("heading", name="3 people")).to_be_visible()


def test_enter_alone_starts_a_conversation(desk: Desk, person: Person) -> None:
    ann, bob, cem = person("ann"), person("bob"), person("cem")
    page = desk.sit_down(ann).page
    page.get_by_role("button", name="New conversation").click()
    field = page.get_by_role("searchbox", name="Find people")
    for number, other in enumerate((bob, cem), 1):
        field.fill(other.username)
        expect(page.locator("button.person")).to_have_count(1)
        field.press("Enter")
        expect(page.locator(".chip")).to_have_count(number)
        expect(field).to_have_value("")
    expect(page.locator("button.person")).to_have_count(0)
    field.press("Enter")
    expect(page.get_by_text("The group begins here.")).to_be_visible()
    expect(page.locator(".thread-title .hint")).to_contain_text("3 people")


def test_enter_never_chooses_from_an_older_search(desk: Desk, person: Person) -> None:
    ann, bob, cem, dan = (person(name) for name in ("ann", "bob", "cem", "dan"))
    page = desk.sit_down(ann).page
    page.get_by_role("button", name="New conversation").click()
    field = page.get_by_role("searchbox", name="Find people")
    field.fill(bob.username)
    expect(page.locator("button.person")).to_have_count(1)
    field.fill(cem.username)
    field.press("Enter")
    expect(page.locator(".chip")).to_have_text(cem.username)

    # Nor while the present search runs.
    field.fill(bob.username)
    expect(page.locator("button.person")).to_have_count(1)
    held = Held(page, "**/api/users?*")
    field.fill(dan.username)
    held.wait()
    field.press("Enter")
    page.wait_for_timeout(100)
    for route in held.routes:
        route.continue_()
    expect(page.locator(".chip")).to_have_text([cem.username, dan.username])


def test_unsent_messages_to_a_lost_group_are_shown_and_dropped(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    group = bob.start_group(ann, name="Hikers")
    context = desk.context(ann)
    window = desk.window(context, allowed=NETWORK).open(f"/#/c/{group}")
    expect(window.field).to_be_visible()
    context.set_offline(True)
    window.say("too late")
    expect(window.message("too late").locator(".mark")).to_contain_text("Sending")
    window.page.get_by_role("button", name="Details").click()
    window.page.get_by_role("button", name="Leave group").click()
    window.page.get_by_role("button", name="Leave", exact=True).click()
    expect(window.page.locator(".toast")).to_have_text("No connection. Try again when you are back online.")
    expect(window.page.get_by_role("dialog", name="Details")).to_be_visible()
    bob.ask("DELETE", f"/api/chat/conversations/{group}/members/{ann.id}")
    context.set_offline(False)
    expect(window.page.get_by_text("Not sent to “Hikers”: too late")).to_be_visible(timeout=20_000)
    expect(window.chats).to_have_count(0)
    expect(window.page.get_by_role("dialog")).to_have_count(0)
    window.page.get_by_role("button", name="Sign out").click()
    expect(window.page.get_by_role("heading", name="Sign in to Pulse")).to_be_visible()


def test_own_messages_can_be_edited_and_deleted(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    at_ann, at_bob = desk.sit_down(ann, f"/#/c/{chat}"), desk.sit_down(bob, f"/#/c/{chat}")
    at_ann.say("First").say("Secnod").say("Third")
    at_bob.expect_texts("First", "Secnod", "Third")

    at_ann.message("Secnod").hover()
    at_ann.message("Secnod").get_by_role("button", name="Edit message").click()
    expect(at_ann.field).to_have_value("Secnod")
    at_ann.say("Second")
    at_bob.expect_texts("First", "Second", "Third")
    expect(at_bob.message("Second").locator(".meta")).to_contain_text("edited")
    expect(at_ann.field).to_have_value("")

    # Arrow-up takes the last one; Escape leaves it as it is.
    at_ann.field.press("ArrowUp")
    expect(at_ann.field).to_have_value("Third")
    expect(at_ann.page.get_by_text("Editing a message")).to_be_visible()
    at_ann.field.press("Escape")
    expect(at_ann.page.get_by_text("Editing a message")).to_be_hidden()
    expect(at_ann.field).to_have_value("")

    at_ann.message("First").hover()
    at_ann.message("First").get_by_role("button", name="Delete message").click()
    at_ann.page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    at_bob.expect_texts("Message deleted", "Second", "Third")
    at_ann.expect_texts("Message deleted", "Second", "Third")
    expect(at_bob.page.get_by_role("button", name="Edit message")).to_have_count(0)
    at_bob.page.reload()
    at_bob.expect_texts("Message deleted", "Second", "Third")


def test_tabs_stay_in_step(desk: Desk, person: Person) -> None:
    ann, bob = person("ann"), person("bob")
    chat = ann.start_chat(bob)
    context = desk.context(ann)
    first = desk.window(context).open(f"/#/c/{chat}")
    second = desk.window(context).open(f"/#/c/{chat}")
    at_bob = desk.sit_down(bob, f"/#/c/{chat}")
    first.say("From the first")
    second.say("From the second")
    at_bob.say("For both")
    for window in (first, second, at_bob):
        window.expect_texts("From the first", "From the second", "For both")
    assert ann.contents(chat) == ["From the first", "From the second", "For both"]

    # Read in one, read in all.
    expect(first.chat(bob.username).locator(".badge")).to_have_count(0)
    expect(second.chat(bob.username).locator(".badge")).to_have_count(0)

    second.page.get_by_role("button", name="Sign out").click()
    for window in (first, second):
        expect(window.page.get_by_role("heading", name="Sign in to Pulse")).to_be_visible()
        expect(window.page.get_by_text("For both")).to_have_count(0)
        assert window.page.evaluate("localStorage.getItem('pulse.session')") is None


def test_links_and_the_back_button_lead_to_conversations(desk: Desk, person: Person) -> None:
    ann, bob, cem = person("ann"), person("bob"), person("cem")
    with_bob, with_cem = ann.start_chat(bob), ann.start_chat(cem)
    page = desk.sit_down(ann, f"/#/c/{with_cem}").page
    title = page.locator(".thread-title h1")
    expect(title).to_have_text(cem.username)
    page.locator(f"a[href='#/c/{with_bob}']").click()
    expect(title).to_have_text(bob.username)
    expect(page.locator(f"a[href='#/c/{with_bob}']")).to_have_attribute("aria-current", "page")
    page.go_back()
    expect(title).to_have_text(cem.username)
    page.go_forward()
    expect(title).to_have_text(bob.username)

    # Without a sign-in the address stays, and the sign-in leads to it.
    window = desk.window(desk.context()).open(f"/#/c/{with_cem}")
    window.page.get_by_label("Username").fill(cem.username)
    window.page.get_by_label("Password", exact=True).fill(PASSWORD)
    window.page.get_by_role("button", name="Sign in").click()
    expect(window.page.locator(".thread-title h1")).to_have_text(ann.username)


def test_a_conversation_of_others_is_not_found(desk: Desk, person: Person) -> None:
    ann, bob, eve = person("ann"), person("bob"), person("eve")
    chat = ann.start_chat(bob)
    at_eve = desk.sit_down(eve, f"/#/c/{chat}", allowed=REFUSED)
    expect(at_eve.page.get_by_text("There is no such conversation, or you are not in it.")).to_be_visible()
    at_eve.page.get_by_role("link", name="All conversations").click()
    expect(at_eve.page.get_by_text("Choose a conversation")).to_be_visible()
