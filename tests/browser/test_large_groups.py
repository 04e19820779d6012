"""The web client in Chromium: groups of more members than a conversation carries."""

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import psycopg
import pytest
from playwright.sync_api import Route, expect

from tests.browser.people import Account, Desk
from tests.support.crowds import add_groups, add_users, conversation_id, join_groups, prepare, user_id

Person: TypeAlias = Callable[[str], Account]

CROWD = 250
# One group for each test.
PAGED, CHANGED = 1, 2
LAST = 3


@pytest.fixture(scope="module")
def crowd(shared_database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection to the database of `shared`, with groups of `CROWD` - 2 members."""
    with psycopg.connect(shared_database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, CROWD + 50)
        add_groups(connection, PAGED, LAST, range(1, CROWD - 1))
        yield connection


def join(connection: psycopg.Connection[tuple[object, ...]], group: int, owner: Account, other: Account) -> str:
    """Adds two members to a group, of which one may remove people; the group's id."""
    for person in (owner, other):
        join_groups(connection, group, group, person.id)
    connection.execute("UPDATE conversations SET owner_id = %s WHERE id = %s", (owner.id, conversation_id(group)))
    return str(conversation_id(group))


def test_members_of_a_large_group_are_shown_by_page(
    desk: Desk, person: Person, crowd: psycopg.Connection[tuple[object, ...]]
) -> None:
    ann, bob = person("ann"), person("bob")
    group = join(crowd, PAGED, ann, bob)
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


def test_members_are_up_to_date_though_a_request_fails(
    desk: Desk, person: Person, crowd: psycopg.Connection[tuple[object, ...]]
) -> None:
    ann, bob = person("ann"), person("bob")
    group = join(crowd, CHANGED, ann, bob)
    page = desk.sit_down(ann, f"/#/c/{group}", allowed="status of 503").page
    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog", name="Details")
    people = dialog.locator(".people > li.person")
    more = dialog.get_by_role("button", name="Show more people")
    more.click()
    expect(people).to_have_count(200)
    failed: list[Route] = []

    def fail_once(route: Route) -> None:
        if failed:
            return route.continue_()
        failed.append(route)
        return route.fulfill(status=503, json={"code": "unavailable", "message": "The database does not answer"})

    page.route("**/members?*", fail_once)
    more.click()
    expect(people).to_have_count(CROWD)
    # The conversation is not seen between the two changes: it has as many members as before, and the same first ones.
    page.route(re.compile(f"/conversations/{group}$"), lambda route: None)
    path = f"/api/chat/conversations/{group}/members"
    ann.ask("DELETE", f"{path}/{user_id(222)}")
    ann.ask("POST", path, {"user_ids": [str(user_id(CROWD + 1))]})
    expect(dialog.get_by_text("user222", exact=True)).to_have_count(0)
    expect(people.last).to_contain_text(f"user{CROWD + 1}")
    expect(people).to_have_count(CROWD)
    assert failed


def test_adding_people_to_a_large_group(
    desk: Desk, person: Person, crowd: psycopg.Connection[tuple[object, ...]]
) -> None:
    ann, bob = person("ann"), person("bob")
    group = join(crowd, LAST, ann, bob)
    page = desk.sit_down(ann, f"/#/c/{group}").page
    page.get_by_role("button", name="Details").click()
    dialog = page.get_by_role("dialog", name="Details")
    chosen = dialog.get_by_role("list", name="Chosen").locator("li")
    found = dialog.locator(".picker .people button")
    field = dialog.get_by_label("Find people")
    add = dialog.get_by_role("button", name="Add", exact=True)

    # Somebody new.
    field.fill(f"user{CROWD + 1}")
    found.first.click()
    add.click()
    expect(dialog.get_by_role("heading", name=f"{CROWD + 1} people")).to_be_visible()
    expect(page.get_by_text("Added.")).to_be_visible()
    expect(chosen).to_have_count(0)
    expect(found).to_have_count(0)
    expect(field).to_have_value("")
    expect(field).to_be_focused()
    expect(add).to_be_disabled()
    field.fill(f"user{CROWD + 1}")
    expect(dialog.get_by_text("Nobody found.")).to_be_visible()

    # Somebody who is a member already, which this page cannot know yet: it says so.
    field.fill("user222")
    found.first.click()
    add.click()
    expect(page.get_by_text("Everybody you chose is a member; some were members already.")).to_be_visible()
    expect(chosen).to_have_count(0)
    expect(add).to_be_disabled()

    # All who are shown are known, and do not hide the others.
    dialog.get_by_role("button", name="Show more people").click()
    expect(dialog.locator(".people > li.person")).to_have_count(200)
    dialog.get_by_role("button", name="Show more people").click()
    expect(dialog.locator(".people > li.person")).to_have_count(CROWD + 1)
    field.fill("user222")
    expect(dialog.get_by_text("Nobody found.")).to_be_visible()
    field.fill("user")
    expect(found).to_have_count(20)
    expect(found.first).to_contain_text(f"user{CROWD - 1}")
