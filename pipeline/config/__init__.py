"""`params.yaml` as frozen, typed sections: an unknown key, a wrong type or an impossible value dies here.

Each section of the file is a class; the comment over a field is its manual. A stage receives only the sections that
`dvc.yaml` lists for it, so that DVC knows exactly what reruns it.
"""

from pipeline.config.data import Augment, CheckName, Ingest, Split, Validate
from pipeline.config.models import Ensemble, Model, Prune, Train
from pipeline.config.params import Params, architectures, check, files_of, load, section
from pipeline.config.recipes import RECIPES
from pipeline.config.results import Audit, Benchmark, Evaluate, Export, Quantize, Registry
from pipeline.config.section import Section

__all__ = [
    "RECIPES", "Audit", "Augment", "Benchmark", "CheckName", "Ensemble", "Evaluate", "Export", "Ingest", "Model",
    "Params", "Prune", "Quantize", "Registry", "Section", "Split", "Train", "Validate", "architectures", "check",
    "files_of", "load", "section",
]  # fmt: skip
