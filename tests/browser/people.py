"""People with a browser each, and what they do and see."""

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Self

import httpx2
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

PASSWORD = "a long enough password"
# The browser's own console errors when the network or the server is gone.
NETWORK = r"net::ERR_|WebSocket connection to|status of 503"


@dataclass(frozen=True)
class Account:
    """A registered user."""

    base_url: str
    id: str
    username: str
    token: str

    @classmethod
    def register(cls, base_url: str, username: str) -> Self:
        """Registers a user."""
        credentials = {"username": username, "password": PASSWORD}
        user = _answer(httpx2.post(f"{base_url}/api/auth/register", json=credentials))
        token = _answer(httpx2.post(f"{base_url}/api/auth/login", json=credentials))["access_token"]
        return cls(base_url, user["id"], username, token)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Requests a REST operation, which must succeed; returns the answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return _answer(httpx2.request(method, f"{self.base_url}{path}", json=body, headers=headers))

    def start_chat(self, other: "Account") -> str:
        """Creates a one-to-one conversation; returns its id."""
        return str(self.ask("POST", "/api/chat/conversations", {"participant_ids": [other.id]})["id"])

    def start_group(self, *others: "Account", name: str = "Team") -> str:
        """Creates a group; returns its id."""
        body = {"name": name, "is_group": True, "participant_ids": [other.id for other in others]}
        return str(self.ask("POST", "/api/chat/conversations", body)["id"])

    def contents(self, conversation_id: str) -> list[str]:
        """Returns the texts of the last 200 messages, oldest first."""
        path = f"/api/chat/conversations/{conversation_id}/messages?limit=200"
        return [message["content"] for message in reversed(self.ask("GET", path)["messages"])]


def _answer(response: httpx2.Response) -> Any:
    assert response.is_success, response.text
    return response.json() if response.content else None


class Held:
    """Requests of a page that get no answer until the test gives it.

    Args:
        page: whose requests.
        pattern: which of them, as `Page.route` takes it.
    """

    def __init__(self, page: Page, pattern: str) -> None:
        self.routes: list[Route] = []
        self._page = page
        page.route(pattern, lambda route: self.routes.append(route))  # Playwright sets an attribute on it

    def wait(self, seconds: float = 15) -> Self:
        """Waits for the first request."""
        deadline = time.monotonic() + seconds
        while not self.routes:
            assert time.monotonic() < deadline, "no request came"
            self._page.wait_for_timeout(20)
        return self


class Window:
    """A page of the web client. An error in its console fails the test.

    Args:
        page: an empty page.
        base_url: address of the service.
        allowed: console errors that are expected, as a regular expression.
    """

    def __init__(self, page: Page, base_url: str, allowed: str = r"(?!)") -> None:
        self.page = page
        self.base_url = base_url
        self.allowed = allowed
        self.complaints: list[str] = []
        page.set_default_timeout(15_000)
        page.on("console", lambda message: message.type == "error" and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(f"uncaught: {error}"))

    def _complain(self, text: str) -> None:
        if not re.search(self.allowed, text):
            self.complaints.append(text)

    def open(self, path: str = "/") -> Self:
        """Loads the page."""
        self.page.goto(self.base_url + path)
        return self

    @property
    def chats(self) -> Locator:
        """The entries of the list of conversations."""
        return self.page.locator(".chat")

    def chat(self, title: str) -> Locator:
        """The entry with this title."""
        return self.chats.filter(has=self.page.locator(".chat-title", has_text=re.compile(f"^{re.escape(title)}")))

    def go(self, title: str) -> Self:
        """Opens a conversation by its title."""
        self.chat(title).click()
        expect(self.page.locator(".thread-title h1")).to_have_text(title)
        return self

    @property
    def field(self) -> Locator:
        """The field for new messages."""
        return self.page.get_by_role("textbox", name="Message")

    def say(self, text: str) -> Self:
        """Writes a message and sends it."""
        self.field.fill(text)
        self.field.press("Enter")
        return self

    @property
    def texts(self) -> Locator:
        """The texts of the shown messages."""
        return self.page.locator(".message .text")

    def message(self, text: str) -> Locator:
        """The message with this text."""
        return self.page.locator(".message", has=self.page.get_by_text(text, exact=True))

    def expect_texts(self, *texts: str) -> None:
        """Expects these messages in this order, and no others."""
        expect(self.texts).to_have_text(list(texts), timeout=20_000)


class Desk:
    """Opens windows, and checks at the end that none had an error."""

    def __init__(self, browser: Browser, base_url: str) -> None:
        self.browser = browser
        self.base_url = base_url
        self._contexts: list[BrowserContext] = []
        self._windows: list[Window] = []

    def context(self, account: Account | None = None, **options: Any) -> BrowserContext:
        """Opens a browser profile, with an account signed in if one is given."""
        if account is not None:
            session = {"token": account.token, "userId": account.id, "username": account.username}
            item = {"name": "pulse.session", "value": json.dumps(session)}
            origin = {"origin": self.base_url, "localStorage": [item]}
            options["storage_state"] = {"cookies": [], "origins": [origin]}
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self._contexts.append(context)
        return context

    def window(self, context: BrowserContext, allowed: str = r"(?!)") -> Window:
        """Opens a tab."""
        window = Window(context.new_page(), self.base_url, allowed)
        self._windows.append(window)
        return window

    def sit_down(self, account: Account, path: str = "/", allowed: str = r"(?!)", **options: Any) -> Window:
        """Opens a window with an account signed in."""
        return self.window(self.context(account, **options), allowed).open(path)

    def leave(self) -> None:
        """Closes everything, and fails if a window had an error."""
        complaints = [text for window in self._windows for text in window.complaints]
        for context in self._contexts:
            context.close()
        assert complaints == []
