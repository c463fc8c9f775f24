"""What DVC, MLflow, imports and files add to a training: `dvc repro` of one training stage over the bare loop.

    python benchmarks/stage_overhead.py [EPOCHS [ROUNDS]]      default: 60 epochs of simple_cnn on digits, 3 rounds

The bare loop is the time of all epochs by the stage's own clock, as it reports them to MLflow. Runs in a copy of the
committed project.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import mlflow

PROJECT = Path(__file__).parent.parent
STAGE = "train@simple_cnn"


def run(root: Path, *command: str) -> None:
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)


def bare(root: Path) -> float:
    """Seconds of the epochs of the newest run."""
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1)[0]
    return float(sum(metric.value for metric in client.get_metric_history(found.info.run_id, "train/epoch_seconds")))


def main() -> None:
    epochs, rounds = [*sys.argv[1:], "60", "3"][:2] if len(sys.argv) < 3 else sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(root)], check=True)
        params = root / "params.yaml"
        params.write_text(params.read_text().replace("epochs: 10\n", f"epochs: {epochs}\n", 1))
        run(root, "dvc", "repro", STAGE)
        added = []
        for _ in range(int(rounds)):
            start = time.perf_counter()
            run(root, "dvc", "repro", "--single-item", "--force", STAGE)
            whole = time.perf_counter() - start
            added.append(whole - bare(root))
            print(f"stage {whole:6.1f} s, bare loop {whole - added[-1]:6.1f} s, added {added[-1]:5.1f} s", flush=True)
        share = median(added) / (whole - added[-1])
        print(f"added, median of {rounds}: {median(added):.1f} s, {share:.1%} of a loop of {whole - added[-1]:.0f} s")


if __name__ == "__main__":
    main()
