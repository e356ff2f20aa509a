"""`FaultyStore`: a SQLite store whose operations fail, hang or are late on request."""

from __future__ import annotations

import asyncio

from codomyrmex.integrations.durable import SQLiteStore, StoreUnavailableError


def _faulty(name):
    async def operation(self, *args):
        return await self.disturbed(name, args)

    return operation


class FaultyStore(SQLiteStore):
    """A SQLite store whose operations fail while their names are in `away`, and wait for `held[name]`.

    `after` has functions that are awaited with the arguments and the result of an operation.
    """

    def __init__(self, path):
        super().__init__(path)
        self.away, self.held, self.after, self.calls = set(), {}, {}, []

    async def disturbed(self, name, args):
        self.calls.append((name, *args))
        if name in self.held:
            while not self.held[name].is_set():
                await asyncio.sleep(0.005)
        if name in self.away:
            raise StoreUnavailableError(f"{self.url}: {name} is switched off")
        result = await getattr(super(), name)(*args)
        if name in self.after:
            await self.after[name](args, result)
        return result

    append, read, wait, renew, acquire, save = map(
        _faulty, ("append", "read", "wait", "renew", "acquire", "save")
    )
