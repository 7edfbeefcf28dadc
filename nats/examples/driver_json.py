#!/usr/bin/env python3
"""A driver in JSON: list, start, watch until energy flows, stop, receipt.

Needs `pip install nats-py[nkeys]`. Written from ../README.md alone; sections of it are named in
comments. Exits 0 only if the session went from start to receipt.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
import uuid
from decimal import Decimal

import nats
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

HEADERS = {"Content-Type": "application/json"}
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
    def __init__(self, nc, driver):
        self.nc = nc
        self.driver = driver
        self.clock_ms = 0  # central's clock less ours, from `ts`

    async def attempt(self, verb, payload):
        """One send of these bytes. None when nothing was said about them."""
        try:
            message = await self.nc.request(
                f"ev.v1.driver.{self.driver}.{verb}", payload, timeout=ATTEMPT_S, headers=HEADERS
            )
        except (NatsTimeout, NoRespondersError) as error:
            print(f"  {verb}: {error!r}; repeating the same bytes", file=sys.stderr)
            await asyncio.sleep(0.5)
            return None
        reply = json.loads(message.data)
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
        payload = json.dumps(fields).encode()
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            reply = await self.attempt(verb, payload)
            if reply is not None:
                return reply
        raise SystemExit(f"{verb}: no answer within {SETTLE_S:.0f} s; the same bytes may be repeated")

    async def wish(self, verb, fields):
        """Something that changes the world. An app writes both ids to disk before it sends."""
        began = time.monotonic()
        try:
            return await self.ask(verb, self.stamped(fields))
        except Refused as refused:
            # Refused for good and without effect: once more, by the clock of the refusal ("Asking").
            if refused.reason not in CLOCK or time.monotonic() - began > LIFE_MS / 1000:
                raise
            print(f"  {verb}: {refused.reason}; our clock is off, asking by central's", file=sys.stderr)
            return await self.ask(verb, self.stamped(fields))

    def stamped(self, fields):
        return fields | {
            "request_id": str(uuid.uuid4()),
            "expires_at": int(time.time() * 1000) + self.clock_ms + LIFE_MS,
        }

    async def session(self, session_id):
        reply = await self.ask("status", {"session_id": session_id})
        return reply["sessions"][0]

    async def watch(self, session_id, wanted, timeout_s):
        """The session once `wanted` says so. An update can be lost and the last one can die with
        its sender, so that each is a mere nudge to ask; silence is one too."""
        nudges = await self.nc.subscribe(f"ev.v1.watch.{self.driver}.{session_id}")
        until = time.monotonic() + timeout_s
        shown = None
        try:
            while time.monotonic() < until:
                view = await self.session(session_id)
                if view["pos"] != shown:
                    shown = view["pos"]
                    kwh = Decimal(view["energy_mwh"]) / 1_000_000
                    print(f"  {view['state']:<15} {kwh:.3f} kWh  {view['cost']} {view['currency']}")
                if wanted(view):
                    return view
                if view["status"] in ENDED:
                    raise SystemExit(f"the session has ended: {view.get('reason')}")
                try:
                    await nudges.next_msg(timeout=SILENCE_S)
                    while nudges.pending_msgs:  # one question answers all that wait
                        await nudges.next_msg(timeout=1)
                except NatsTimeout:
                    pass
        finally:
            await nudges.unsubscribe()
        raise SystemExit(f"nothing of the kind within {timeout_s:.0f} s")


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
    driver = Driver(nc, args.driver)
    try:
        print("charge points:")
        async for cp in listing(driver):
            terms = cp["tariff"]["terms"]
            states = ", ".join(f"{c['connector']} {c['state']}" for c in cp["connectors"])
            print(f"  {cp['cp_id']}: {states}; {per_kwh(terms)} {terms['currency']}/kWh")

        print(f"start at {args.cp}/{args.connector}:")
        start = {"cp_id": args.cp, "connector": args.connector}
        started = await driver.wish("start", start)
        session_id = started.get("session_id")
        if session_id is None:
            raise SystemExit("central is older and names no session: it cannot be stopped by id")
        print(f"  accepted: {session_id}")

        flows = lambda view: view["state"] == "charging" and view["energy_mwh"] >= args.min_mwh
        await driver.watch(session_id, flows, args.timeout)

        print("stop:")
        await driver.wish("stop", {"session_id": session_id})
        print("  accepted: it holds until the charge point has confirmed")
        ended = await driver.watch(session_id, lambda v: v["status"] in ENDED, args.timeout)
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
    try:
        asyncio.run(run(parser.parse_args()))
    except Refused as refused:
        sys.exit(f"refused: {refused}")


if __name__ == "__main__":
    main()
