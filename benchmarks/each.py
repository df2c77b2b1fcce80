"""One system of each kind against the obvious baseline: every command of docs/each.md, run, and what it printed kept.

python benchmarks/each.py                  # all that have no result yet; --anew KEY ... runs those again
"""

import argparse
import json
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILE = HERE / "results" / "each.json"
SHARED = "../shared/data"
COMMANDS = {
    "movement, dtp-transport": "benchmarks/transfer.py",
    "granet": "benchmarks/one_of_each.py granet --seeds 3",
    "gsm": "benchmarks/one_of_each.py gsm --seeds 2",
    "lobster": "benchmarks/one_of_each.py lobster --seeds 3",
    "chita": "benchmarks/one_of_each.py chita --seeds 3",
    "oba": "benchmarks/one_of_each.py oba --seeds 5",
    "rd-prune": f"benchmarks/one_cut.py rd-prune --data {SHARED}",
    "imp-rewind": "benchmarks/one_of_each.py imp-rewind --seeds 2",
    "swamp": "benchmarks/one_of_each.py swamp --seeds 3",
    "plant-n-seek": "-m resprout study 'plant_n_seek(targets=(\"circle\",))' --out /tmp/resprout-each",
    "robust-pai": "benchmarks/one_of_each.py robust-pai --seeds 3",
    "lrp-prune": f"benchmarks/one_cut.py lrp-prune --data {SHARED}",
    "cropr": f"benchmarks/inputs.py cropr --data {SHARED}",
    "gap-posid": f"benchmarks/inputs.py gap --data {SHARED}",
    "ftwt": f"benchmarks/inputs.py ftwt --data {SHARED}",
    "mad": "benchmarks/inputs.py mad",
    "mia-prune": "benchmarks/inputs.py mia",
    "ecodiff": "benchmarks/diffusion.py",
    "fedtiny": "benchmarks/federated.py",
    "rl-gmp": "benchmarks/agents.py",
}


def processor() -> float:
    """Processor seconds of the commands that have ended: their wall time says how busy the machine was."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*", default=list(COMMANDS), help="default all")
    parser.add_argument("--anew", action="store_true", help="also those that have a result")
    args = parser.parse_args()
    for key in args.keys:
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        if key in found and not args.anew:
            continue
        words = [sys.executable, *shlex.split(COMMANDS[key])]
        print(f"== {key}: python {COMMANDS[key]}", flush=True)
        began = processor()
        done = subprocess.run(words, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"   failed with {done.returncode}", flush=True)
            continue
        seconds, machine = round(processor() - began), platform.platform()
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("wrote") and "━" not in line]
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        found[key] = {"command": f"python {COMMANDS[key]}", "lines": lines, "processor": seconds, "machine": machine}
        FILE.write_text(json.dumps({k: found[k] for k in COMMANDS if k in found}, indent=1) + "\n")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
