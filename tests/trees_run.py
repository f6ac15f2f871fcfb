"""A tree from its seed: drawn and done step by step, and when a difference is found, made as short as it gets."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass

from faas import FaaSClient
from trees_draw import FIRST, Draw
from trees_world import Difference, Inapplicable, Operation, World

DRAWS = 50
TREE_S = 100.0
"""For one tree, seconds: long past what one takes."""
SHRINKING_S = 25.0


@dataclass
class Failure:
    seed: str
    operations: list[Operation]
    difference: str

    def __str__(self) -> str:
        lines = "\n".join(f"    {operation!r}," for operation in self.operations)
        return f"tree {self.seed}\n{self.difference}\noperations:\n{lines}\nreplay it with FAAS_TREES_SEED={self.seed}"


def _world(client: FaaSClient, seed: str) -> tuple[World, random.Random]:
    rng = random.Random(seed)
    world = World(client, f"t{uuid.uuid4().hex[:10]}", shell=rng.random() < 0.15)
    world.form = rng.choice(("live", "any", "any"))
    return world, rng


async def grow(client: FaaSClient, seed: str) -> Failure | None:
    """One tree of 8 to 15 operations, and a look at all that is open in the end. Ends what it opened."""
    world, rng = _world(client, seed)
    done: list[Operation] = []
    try:
        await _grow(world, rng, done)
    except Difference as exc:
        return Failure(seed, done, str(exc))
    except TimeoutError:
        return Failure(seed, done, f"it took longer than {TREE_S:g} s")
    finally:
        await world.close()
    return None


async def _grow(world: World, rng: random.Random, done: list[Operation]) -> None:
    draw = Draw(rng, world)
    async with asyncio.timeout(TREE_S):
        await _do(world, ("open", 1, rng.choice((0, 0, 0, 3, 6))), done)
        if not world.shell:
            await _do(world, ("run", 1, FIRST), done)
        for _ in range(rng.randint(8, 15)):
            for _ in range(DRAWS):
                try:
                    await _do(world, draw.operation(), done)
                except Inapplicable:
                    continue
                break
        for node in list(world.nodes):
            await _do(world, ("look", node), done)


async def _do(world: World, operation: Operation, done: list[Operation]) -> None:
    done.append(operation)
    try:
        await world.apply(operation)
    except Inapplicable:
        done.pop()
        raise


async def replay(client: FaaSClient, seed: str, operations: list[Operation]) -> tuple[list[Operation], str]:
    """Do them again, leaving out what makes no sense: those until a difference, and what that is; empty for none."""
    world, _ = _world(client, seed)
    done: list[Operation] = []
    try:
        for operation in operations:
            try:
                await _do(world, operation, done)
            except Inapplicable:
                continue
    except Difference as exc:
        return done, str(exc)
    finally:
        await world.close()
    return done, ""


async def shrink(client: FaaSClient, failure: Failure) -> Failure:
    """Leave out one operation, or one cell, after the other, as long as there still is a difference."""
    end = asyncio.get_running_loop().time() + SHRINKING_S
    again = True
    while again:
        again = False
        for shorter in _shorter(failure.operations):
            if asyncio.get_running_loop().time() > end:
                return failure
            done, difference = await replay(client, failure.seed, shorter)
            if difference:
                failure, again = Failure(failure.seed, done, difference), True
                break
    return failure


def _shorter(operations: list[Operation]) -> list[list[Operation]]:
    found = [operations[:n] + operations[n + 1 :] for n in range(len(operations) - 2, 0, -1)]
    for n, operation in enumerate(operations):
        if operation[0] == "run" and len(operation[2]) > 1:
            for cell in range(len(operation[2])):
                fewer = (*operation[:2], operation[2][:cell] + operation[2][cell + 1 :])
                found.append([*operations[:n], fewer, *operations[n + 1 :]])
        if operation[0] == "together":
            found.append([*operations[:n], *operation[1:], *operations[n + 1 :]])
    return found
