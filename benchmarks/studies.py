r"""Every study with its defaults, one after another; verdicts to benchmarks/results/studies.json, tables to docs/studies.md.

Resumable: what has a finding in --out is not run again. Name studies to run only those.

    python benchmarks/studies.py
    python benchmarks/studies.py pie oracle_sanity
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from resprout import catalog

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default all")
    parser.add_argument("--out", type=Path, default=Path("studies"))
    args = parser.parse_args()
    names = args.names or catalog.names("study")
    for name in names:
        if not (args.out / name / "finding.json").exists():
            print(f"== {name}", flush=True)
            subprocess.run([sys.executable, "-m", "resprout", "study", name, "--out", args.out], check=True)
    file = HERE / "results" / "studies.json"
    kept = {s["name"]: s for s in json.loads(file.read_text())} if file.exists() else {}
    for name in names:
        found = json.loads((args.out / name / "finding.json").read_text())
        facts = {n: found[n] for n in ("name", "claim", "verdict", "holds", "configuration", "command", "seconds")}
        kept[name] = facts | {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    file.write_text(json.dumps([kept[n] for n in sorted(kept)], indent=1) + "\n")
    print(f"wrote {file}; `make docs` puts it into docs/studies.md")


if __name__ == "__main__":
    main()
