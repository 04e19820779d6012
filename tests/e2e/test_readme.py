"""The first chat of the README, as it stands there, but for the address."""

import re
from pathlib import Path

import trio

from tests.e2e.test_specification_clients import node, running
from tests.support.server import Server

README = Path(__file__).parent.parent.parent / "README.md"

# Between the README's two programs a person waits until the messages have come: four, two for each.
WAIT = """
await new Promise((resolve) => {
  const log = console.log;
  let seen = 0;
  console.log = (text) => { log(text); if (text.includes("sees message") && ++seen === 4) resolve(); };
});
"""


async def test_the_first_chat_works_as_written(server: Server) -> None:
    command = node()
    chat, history = re.findall(r"```javascript\n(.*?)```", README.read_text(), re.DOTALL)
    assert "http://127.0.0.1:8000" in chat
    program = chat.replace("http://127.0.0.1:8000", server.base_url) + WAIT + history + "process.exit(0);\n"
    async with running(*command, "--input-type=module", "--eval", program) as browser:
        await browser.wait_line("alice sees message 1: Hello, Bob!")
        await browser.wait_line("bob sees message 2: Hello, Alice!")
        await browser.wait_line("alice sees typing : bob")
        await browser.wait_line("'2 bob: Hello, Alice!', '1 alice: Hello, Bob!'")
        with trio.fail_after(20):
            assert await browser.process.wait() == 0
