#!/usr/bin/env python3
"""A driver in MessagePack: list, start, watch until energy flows, stop, receipt.

Needs `pip install nats-py[nkeys] msgpack`. Written from ../README.md alone; sections of it are named in
comments. Exits 0 only if the session went from start to receipt.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
import time
import uuid
from decimal import Decimal

import msgpack
import nats
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

ATTEMPT_S = 2.0  # waiting for one answer
SETTLE_S = 60.0  # repeating a wish; longer than its expiry, so that it is settled ("Asking", 5)
LIFE_MS = 20_000  # a wish's expiry; at most 30 s
SILENCE_S = 10.0  # without an update for so long, ask ("Watching", 4)
UNSETTLED = {"outcome_unknown", "overloaded", "not_ready", "internal"}
# Of an id that was drawn just now these are said because of its expiry alone: our clock is wrong.
CLOCK = {"expired", "expiry_too_far", "invalid_time", "forgotten"}
ENDED = {"completed", "failed"}


class Refused(Exception):
    """Central said no."""

    def __init__(self, reply):
        error = reply["error"]
        super().__init__(f"{reply['reason']}: {error['message']}; {error['hint']}")
        self.reason = reply["reason"]


def per_kwh(terms):
    """What a kilowatt-hour costs: the first element that has a price for energy counts."""
    prices = (p for e in terms["elements"] for p in e["price_components"])
    return next((p["price"] for p in prices if p["component"] == "energy"), "0")


class Driver:
    def __init__(self, nc, driver, pending):
        self.nc = nc
        self.driver = driver
        self.pending = pending  # the file of a wish that is not settled
        self.clock_ms = 0  # central's clock less ours, from `ts`

    async def attempt(self, verb, payload):
        """One send of these bytes. None when nothing was said about them."""
        try:
            subject = f"ev.v1.driver.{self.driver}.{verb}"
            message = await self.nc.request(subject, payload, timeout=ATTEMPT_S)
        except (NatsTimeout, NoRespondersError) as error:
            print(f"  {verb}: {error!r}; repeating the same bytes", file=sys.stderr)
            await asyncio.sleep(0.5)
            return None
        reply = msgpack.unpackb(message.data)
        if reply.get("to") != self.driver:
            return None  # not for us
        self.clock_ms = reply["ts"] - int(time.time() * 1000)
        if reply.get("status") in ("denied", "unknown"):
            if reply["reason"] in UNSETTLED:
                wait_ms = reply["error"].get("retry_after_ms", 1000)
                print(f"  {verb}: {reply['reason']}; repeating the same bytes", file=sys.stderr)
                await asyncio.sleep(wait_ms / 1000)
                return None
            raise Refused(reply)
        return reply

    async def ask(self, verb, fields):
        """Sends the same bytes until there is an answer."""
        payload = msgpack.packb(fields)
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            reply = await self.attempt(verb, payload)
            if reply is not None:
                return reply
        raise SystemExit(f"{verb}: no answer within {SETTLE_S:.0f} s; run again to repeat it")

    async def wish(self, verb, fields):
        """Something that changes the world. On disk before it is sent, so that the next run repeats
        it under the same id if this one dies ("Asking", 1)."""
        began = time.monotonic()
        try:
            return await self.settle(verb, self.stamped(verb, fields))
        except Refused as refused:
            # Refused for good and without effect: once more, by the clock of the refusal ("Asking").
            if refused.reason not in CLOCK or time.monotonic() - began > LIFE_MS / 1000:
                raise
            print(f"  {verb}: {refused.reason}; our clock is off, asking by central's", file=sys.stderr)
            return await self.settle(verb, self.stamped(verb, fields))

    def stamped(self, verb, fields):
        """With an id and an expiry by central's clock as far as we know it, and on disk."""
        fields = fields | {
            "request_id": str(uuid.uuid4()),
            "expires_at": int(time.time() * 1000) + self.clock_ms + LIFE_MS,
        }
        write_durably(self.pending, {"verb": verb, "fields": fields})
        return fields

    async def settle(self, verb, fields):
        try:
            reply = await self.ask(verb, fields)
        except Refused:
            os.remove(self.pending)  # a refusal settles it
            raise
        os.remove(self.pending)
        return reply

    async def left_over(self):
        """What an earlier run may have done."""
        if not os.path.exists(self.pending):
            return
        with open(self.pending) as file:
            wish = json.load(file)
        print(f"settling a {wish['verb']} of an earlier run:")
        try:
            reply = await self.settle(wish["verb"], wish["fields"])
            print(f"  {reply['status']}: {reply.get('session_id')}")
        except Refused as refused:
            print(f"  {refused}")

    async def session(self, session_id):
        reply = await self.ask("status", {"session_id": session_id})
        return reply["sessions"][0]

    async def watch(self, updates, session_id, wanted, timeout_s):
        """The session once `wanted` says so, by the numbers of the updates ("Watching")."""
        until = time.monotonic() + timeout_s
        last = -1
        fresh = False  # whether what we have seen is complete
        while time.monotonic() < until:
            if not fresh:
                seen = as_update(await self.session(session_id))
                fresh = True
            else:
                try:
                    message = await updates.next_msg(timeout=SILENCE_S)
                except NatsTimeout:
                    fresh = False
                    continue
                seen = msgpack.unpackb(message.data)
                if seen.get("to") != self.driver or seen.get("type", "update") != "update":
                    continue
                if seen.get("session_id") != session_id or seen["pos"] <= last:
                    continue
                if seen.get("prev", 0) > last:
                    fresh = False  # one was lost
                    continue
            if seen["pos"] > last:
                kwh = Decimal(seen["energy_mwh"]) / 1_000_000
                print(f"  {seen['phase']:<15} {kwh:.3f} kWh  {seen['cost']} {seen['currency']}")
            last = seen["pos"]
            if wanted(seen):
                return seen
            if seen["status"] in ENDED:
                raise SystemExit(f"the session has ended: {seen.get('reason')}")
        raise SystemExit(f"nothing of the kind within {timeout_s:.0f} s")


def as_update(view):
    return view | {"phase": view["state"]}


def write_durably(path, value):
    with open(path + ".new", "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


async def listing(driver):
    """All pages."""
    after = None
    while True:
        reply = await driver.ask("list", {} if after is None else {"after": after})
        for charge_point in reply["charge_points"]:
            yield charge_point
        after = reply.get("next")
        if after is None:
            return


async def run(args):
    async def on_error(error):
        print(f"  nats: {error}", file=sys.stderr)

    nc = await nats.connect(
        args.server,
        error_cb=on_error,
        max_reconnect_attempts=-1,
        # "Getting in": TLS from the first byte, a credential, an inbox of one's own.
        tls=ssl.create_default_context(cafile=args.ca),
        tls_handshake_first=True,
        user_credentials=args.credentials,
        inbox_prefix=f"_INBOX_{args.driver}",
    )
    driver = Driver(nc, args.driver, args.pending)
    try:
        await driver.left_over()

        print("charge points:")
        async for cp in listing(driver):
            terms = cp["tariff"]["terms"]
            states = ", ".join(f"{c['connector']} {c['state']}" for c in cp["connectors"])
            print(f"  {cp['cp_id']}: {states}; {per_kwh(terms)} {terms['currency']}/kWh")

        print(f"start at {args.cp}/{args.connector}:")
        updates = await nc.subscribe(f"ev.v1.watch.{args.driver}.*")
        start = {"cp_id": args.cp, "connector": args.connector}
        started = await driver.wish("start", start)
        session_id = started.get("session_id")
        if session_id is None:
            raise SystemExit("central is older and names no session: it cannot be stopped by id")
        print(f"  accepted: {session_id}")

        flows = lambda seen: seen["phase"] == "charging" and seen["energy_mwh"] >= args.min_mwh
        await driver.watch(updates, session_id, flows, args.timeout)

        print("stop:")
        await driver.wish("stop", {"session_id": session_id})
        print("  accepted: it holds until the charge point has confirmed")
        over = lambda seen: seen["status"] in ENDED
        ended = await driver.watch(updates, session_id, over, args.timeout)
        print(f"  {ended['status']}: {ended['reason']}")

        print("receipt:")
        reply = await driver.ask("receipt", {"session_id": session_id})
        receipt = reply["receipt"]
        for line in receipt["lines"]:
            print(f"  {line['component']}: {line['quantity']} {line['unit']} x {line['price']}")
        owed = reply["adjustments"][-1]["total"] if reply.get("adjustments") else receipt["total"]
        print(f"  {receipt['number']}: {owed} {receipt['currency']}")
        metered = sum(span["to_mwh"] - span["from_mwh"] for span in receipt["meters"])
        exact = sum((Decimal(line["amount"]) for line in receipt["lines"]), Decimal(0))
        if metered != receipt["energy_mwh"] or exact != Decimal(receipt["exact"]):
            raise SystemExit("the receipt does not add up")
    finally:
        await nc.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="nats://127.0.0.1:4222")
    parser.add_argument("--driver", default="alice")
    parser.add_argument("--credentials", required=True, help="the driver's, from `central enrol driver`")
    parser.add_argument("--ca", required=True, help="who vouches for the server: tls/ca.crt")
    parser.add_argument("--cp", default="CP-001")
    parser.add_argument("--connector", type=int, default=1)
    parser.add_argument("--min-mwh", type=int, default=1, help="stop after so much energy")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for each wait")
    parser.add_argument("--pending", help="file of an unsettled wish; one for each driver")
    args = parser.parse_args()
    if args.pending is None:
        args.pending = f"pending-{args.driver}.json"
    try:
        asyncio.run(run(args))
    except Refused as refused:
        sys.exit(f"refused: {refused}")


if __name__ == "__main__":
    main()
