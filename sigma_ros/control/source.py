# SPDX-License-Identifier: Apache-2.0
"""Who sent a message: the publisher that the middleware names, and what a policy says of itself in its chunks."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """What a policy writes into each chunk: the robot it was made for, and a random name of its process."""

    robot: str
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a message came from.

    Attributes:
        publisher: The publisher's unique id; empty where the caller is in this process or the middleware is silent.
        process: What the ids of all publishers of one process have in common; empty where that is not known.
        name: The publisher's node, for people; it proves nothing.
        author: What a chunk's policy says of itself; None for other messages and for callers in this process.
    """

    publisher: str = ""
    process: str = ""
    name: str = field(default="", compare=False)
    author: Author | None = None

    @property
    def label(self) -> str:
        """How people are told of it."""
        return self.name or (f"publisher {self.publisher[-8:]}" if self.publisher else "a publisher without a name")


IN_PROCESS = Source()
"""A caller that holds the supervisor itself: a replay, the simulator, a test."""
