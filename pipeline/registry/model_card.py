"""What a reader outside the team should know of a registered model, in Markdown."""

from typing import Any

from pipeline import layout
from pipeline.artifacts import ModelCard, read_json, read_table
from pipeline.config import Params

SHOWN = 30  # classes: the ones that it knows worst
LIMITS = """
- It knows these classes only: an image of anything else gets one of them, often with high confidence.
- The accuracy holds for images like the test images. Other cameras, other places or other people may give another one.
- A confidence is no proof. Look at how often the model is right at that confidence (calibration, in the report).
"""


def _cell(name: str) -> str:
    """A class's name in a table of Markdown."""
    return " ".join(name.split()).replace("|", r"\|")


def model_card(params: Params, row: dict[str, Any], card: ModelCard) -> str:
    """`row`: of benchmark.json. All numbers are of the variant's trained network, on the test split."""
    name, model = params.registry.name, row["model"]
    made = read_json(layout.metrics(params.weights_stage(model), model))
    tested = read_json(layout.metrics("evaluate", model))
    classes = read_table(layout.per_class(model)).sort_values("recall", kind="stable")
    worst, prepared, size = classes.iloc[0], card.preprocessing, row["size_mb"]
    facts = {
        "Task": f"one of {len(card.class_names)} classes for an image",
        "Network": f"{card.architecture} ({row['variant']}), {made['parameters']:,} parameters, {size:.1f} MB",
        "Input": f"any image; it is brought to {prepared.size} x {prepared.size} pixels ({prepared.resize})",
        "Output": "a class, its confidence, and a probability of each class",
        "Trained on": f"{made['training_images']:,} images of {params.experiment} ({params.ingest.source})",
        "Tested on": f"{tested['images']:,} images that it has never seen",
        "Accuracy": f"{row['accuracy']:.2%} of them (95 % interval {tested['accuracy_low']:.2%} to "
        f"{tested['accuracy_high']:.2%})",
        "Weakest class": f"{_cell(worst['class'])}: {worst['recall']:.1%} of its {worst['images']} images are found",
        "Calibration error": f"{tested['ece']:.3f} (mean gap between confidence and accuracy)",
        "Chosen by": f"accuracy on the validation images, {row['val_accuracy']:.2%}",
        "Speed": f"{row['latency_ms']:.2f} ms for one image, on {params.benchmark.threads} CPU thread(s)",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    rows = "\n".join(
        f"| {_cell(each['class'])} | {each['images']} | {each['precision']:.1%} | {each['recall']:.1%} |"
        for each in classes.head(SHOWN).to_dict("records")
    )
    more = f"\n\nThe {SHOWN} weakest of {len(classes)} classes." if len(classes) > SHOWN else ""
    return f"""# {name}: {model}

| | |
|---|---|
{table}

## Classes, the weakest first

| class | test images | right when it says so | found |
|---|---|---|---|
{rows}{more}

## Limits
{LIMITS}
## Use

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/{name}@champion")
model.predict(["photo.jpg"])
```

Where it comes from (code, data, parameters, machine): the tags `lineage.*` of the version, and its run.
"""
