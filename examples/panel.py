# SPDX-License-Identifier: Apache-2.0
"""Operate a running arm from a program, through its panel: engage, watch state and scale, release in every case.

    sigma run --sim --panel                             # in another terminal; or sigma panel beside a real graph
    python examples/panel.py --seconds 10 --scale 0.5   # at most half of Sigma's correction

The panel only passes orders on: the supervisor judges them, and says in words why not. Whoever may open the page may
do this, so it listens on this machine alone; from elsewhere it takes the token that `sigma panel` printed.
"""

import argparse
import asyncio
import json
import time

import aiohttp


async def operate(url: str, *, seconds: float, scale: float) -> None:
    """Lets the arm move for a while under a lower ceiling of the scale."""
    async with aiohttp.ClientSession() as session:

        async def order(name: str, value: object = None) -> str:
            async with session.post(f"{url}/order/{name}", data=json.dumps(value)) as answer:
                said: str = (await answer.json())["said"]
                return said

        try:
            print("scale:", await order("scale", scale))
            print("engage:", await order("engage"))
            await watch(session, url, until_s=time.monotonic() + seconds)
        finally:
            print("release:", await order("release"))


async def watch(session: aiohttp.ClientSession, url: str, *, until_s: float) -> None:
    """Prints state and reason whenever they change."""
    before = ""
    async with session.ws_connect(f"{url}/live") as live:
        async for message in live:
            told = json.loads(message.data)["supervisor"]
            now = "no supervisor is heard" if told is None else f"{told['state']}: {told['reason_text']}"
            if now != before:
                print(now, "" if told is None else f"(scale {told['applied_scale']:.2f})")
            before = now
            if time.monotonic() >= until_s:
                return


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8700")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--scale", type=float, default=1.0, help="ceiling of the scale, 0 to 1")
    args = parser.parse_args()
    try:
        asyncio.run(operate(args.url, seconds=args.seconds, scale=args.scale))
    except aiohttp.ClientConnectorError:
        parser.error(f"no panel answers at {args.url}: start sigma run --sim --panel")


if __name__ == "__main__":
    main()
