"""Two processes brought to the same renewal at the same time: with a lease one of them sends, without it both do."""

from __future__ import annotations

import asyncio

from tests.rig.gated_store import BEFORE_LEASE
from tests.rig.volley import CallAnswer
from tests.storm.stage import Stage, Visitor

BEFORE_SENDING = "renewal.lease_held"


async def both_send(stage: Stage, visitor: Visitor) -> None:
    """Let both stand before the sending, then go on. What is due to *visitor* has expired."""
    waiting = []
    for worker in stage.workers:
        await worker.arm(BEFORE_SENDING)
        waiting.append(asyncio.create_task(visitor.ask(worker)))
        await worker.reached(BEFORE_SENDING)
    for worker in stage.workers:
        await worker.release(BEFORE_SENDING)
    await asyncio.gather(*waiting)


async def one_sends(stage: Stage, visitor: Visitor) -> list[CallAnswer]:
    """
    Let the second come to the lease while the first one stands before the sending; what both answered.

    Nobody lets the second go on from there: did it get so far, it would never answer.
    """
    first, second = stage.workers
    await first.arm(BEFORE_SENDING)
    await second.arm(BEFORE_SENDING)
    await second.arm(BEFORE_LEASE)
    waiting = [asyncio.create_task(visitor.ask(first))]
    await first.reached(BEFORE_SENDING)
    waiting.append(asyncio.create_task(visitor.ask(second)))
    await second.reached(BEFORE_LEASE)
    await second.release(BEFORE_LEASE)
    await first.release(BEFORE_SENDING)
    return list(await asyncio.gather(*waiting))
