"""A scheduler small enough to be killed: starts members, tells their processes on stdout, and waits for ever."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.harness import ZOO, begin

from gpbt_async.processes import wire
from gpbt_async.processes.launcher import Launcher


async def main(run: str, folder: Path, start: str) -> None:
    async with Launcher(run, cwd=folder, start=start) as launcher:
        await launcher.open_script(ZOO)
        pids = [pid for pid in launcher.pids().values() if pid is not None]
        workers = [await launcher.start(begin(folder, n, do="litters_and_pauses")) for n in range(2)]
        for worker in workers:
            pids.append(worker.pid)
            async for message in worker:
                if isinstance(message, wire.Report):
                    pids += message.metrics.values()
                    break
        print(json.dumps(pids), flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
