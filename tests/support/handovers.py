"""A handover that keeps its answers."""

from collections.abc import Sequence

import trio

from pulse_trio.model import Post
from pulse_trio.store.base import Answer, Store


class Handed:
    """Messages that a store is handed.

    Args:
        posts: the messages, of one conversation.
        seconds: until its deadline.

    Attributes:
        takings: how often the store has taken the messages.
        answers: what it has answered: one answer, if it keeps the contract.
    """

    def __init__(self, *posts: Post, seconds: float = 30) -> None:
        self.conversation_id = posts[0].conversation_id
        self.deadline = trio.current_time() + seconds
        self.posts: Sequence[Post] = posts
        self.takings = 0
        self.answers: list[Answer] = []
        self._answered = trio.Event()

    def take(self) -> Sequence[Post]:
        self.takings += 1
        return self.posts

    def on_answer(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._answered.set()

    async def wait(self) -> Answer:
        """Returns the answer."""
        await self._answered.wait()
        (answer,) = self.answers
        return answer


async def hand_over(store: Store, *posts: Post) -> Answer:
    """Hands messages over, and returns the answer."""
    handed = Handed(*posts)
    assert store.apply_soon(handed)
    assert (handed.takings, handed.answers) == (0, []), "it calls nothing before it returns"
    return await handed.wait()
