"""What MLflow costs a training and a stage: the seconds spent in pipeline.tracking, beside those of the epochs.

    python benchmarks/tracking_cost.py [EPOCHS]      default: 60 epochs of simple_cnn on digits, embedded store

`imports`: of MLflow, once a stage. The first training makes the store too. Runs in a copy of the committed project.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).parent.parent
# One stage as DVC starts it; every call that tells MLflow something is timed, the outermost one of each thread
TIMED = """
import functools, json, sys, time
import pipeline.stages.train, pipeline.stages.evaluate
started = time.perf_counter()
from pipeline.tracking import live, runs, server, sync
spent, imports = {}, time.perf_counter() - started

def timed(module, name):
    function = getattr(module, name)

    @functools.wraps(function)
    def call(*arguments, **keywords):
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            spent.setdefault(name, []).append(time.perf_counter() - start)

    setattr(module, name, call)

timed(live, "attempt"), timed(sync, "attempt"), timed(runs, "note_training"), timed(live, "_system_metrics")
from pipeline.cli.stages import run_stage
run_stage(*sys.argv[1:])
print(json.dumps({"imports": imports, "total": time.perf_counter() - started, **spent}))
"""


def main() -> None:
    epochs = sys.argv[1] if len(sys.argv) > 1 else "60"
    with tempfile.TemporaryDirectory() as folder:
        root, env = Path(folder) / "project", os.environ | {"MLFLOW_TRACKING_URI": "", "DVC_NO_ANALYTICS": "1"}
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(root)], check=True)
        params = root / "params.yaml"
        params.write_text(params.read_text().replace("epochs: 10\n", f"epochs: {epochs}\n", 1))
        subprocess.run(["dvc", "repro", "-q", "augment"], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)
        for stage in ("train", "train", "prune", "export", "quantize", "evaluate"):
            command = [sys.executable, "-c", TIMED, stage, "simple_cnn"]
            done = subprocess.run(command, cwd=root, env=env, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            total, imports = told.pop("total"), told.pop("imports")
            seconds = {name: sum(times) for name, times in told.items()}
            calls = ", ".join(f"{name} {seconds[name]:.2f} s in {len(told[name])}" for name in told)
            share = sum(seconds.values()) / (total - imports)
            each = f"median {median(told['attempt']) * 1000:.0f} ms"
            print(f"{stage:9} {total:5.1f} s, {imports:.1f} s of it imports: MLflow {share:.1%} ({calls}; {each})")


if __name__ == "__main__":
    main()
