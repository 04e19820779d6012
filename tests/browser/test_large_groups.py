"""The web client in Chromium: groups of more members than a conversation carries."""

from collections.abc import Callable
from typing import TypeAlias

import psycopg
from playwright.sync_api import expect

from tests.browser.people import Account, Desk
from tests.support.crowds import add_groups, add_users, conversation_id, join_groups, prepare, user_id

Person: TypeAlias = Callable[[str], Account]

CROWD = 250


def test_the_members_of_a_large_group_are_shown_by_page(desk: Desk, person: Person, shared_database: str) -> None:
    ann, bob = person("ann"), person("bob")
    with psycopg.connect(shared_database) as connection:
        prepare(connection)
        add_users(connection, 1, CROWD - 2)
        add_groups(connection, 1, 1, range(1, CROWD - 1))
        join_groups(connection, 1, 1, ann.id)
        join_groups(connection, 1, 1, bob.id)
        # Ann may remove people.
        connection.execute("UPDATE conversations SET owner_id = %s", (ann.id,))
    group = str(conversation_id(1))
    at_ann, at_bob = desk.sit_down(ann, f"/#/c/{group}"), desk.sit_down(bob, f"/#/c/{group}")
    page = at_ann.page
    expect(page.locator(".thread-head .hint")).to_have_text("250 people")
    # The last member is nobody whom the conversation carries.
    at_bob.say("from the last one")
    at_ann.expect_texts("from the last one")
    expect(page.locator(".message-name")).to_have_text(bob.username)
    expect(at_bob.page.locator(".message.is-read .mark")).to_have_attribute("title", "Read by 1 person")

    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog", name="Details")
    people = dialog.locator(".people > li.person")
    more = dialog.get_by_role("button", name="Show more people")
    expect(dialog.get_by_role("heading", name="250 people")).to_be_visible()
    expect(people).to_have_count(100)
    more.focus()
    more.press("Enter")
    expect(people).to_have_count(200)
    expect(more).to_be_focused()
    more.press("Enter")
    expect(people).to_have_count(CROWD)
    expect(more).to_have_count(0)
    expect(people.nth(0)).to_contain_text("user1")
    expect(people.nth(CROWD - 1)).to_contain_text(bob.username)

    # The list stays as long as it is, and follows who comes and goes.
    dialog.get_by_role("button", name="Remove user222", exact=True).click()
    page.get_by_role("alertdialog", name="Remove").get_by_role("button", name="Remove", exact=True).click()
    expect(dialog.get_by_role("heading", name="249 people")).to_be_visible()
    expect(people).to_have_count(CROWD - 1)
    expect(dialog.get_by_text("user222", exact=True)).to_have_count(0)
    members = ann.ask("GET", f"/api/chat/conversations/{group}/members?limit=200")
    assert members["total"] == CROWD - 1
    assert members["members"][0]["id"] == str(user_id(1))
