"""The environments that ship, as data: what is in each, and what one sandbox of it may use."""

from __future__ import annotations

from dataclasses import dataclass

from faas.types import Resources

from faas_gateway.backends.base import PipLayer, Recipe


@dataclass(frozen=True)
class Shipped:
    """One environment: the recipe that is built, and what is said about it."""

    recipe: Recipe
    description: str
    resources: Resources
    features: tuple[str, ...]
    notes: tuple[str, ...]
    takes_interpreter: bool = False
    """Whether it shows the packages of the caller's own Python."""


_PYTHON_FEATURES = ("code", "commands", "files", "variables", "rich_output")
_SHELL_FEATURES = ("code", "commands", "files")

_PYTHON_RESOURCES = Resources(
    # No cpus and no timeout_s: a notebook may use the machine, and a cell may take its time.
    memory_mb=4096,  # a data set of 1 GB, with the copies that pandas makes of it
    disk_mb=10_240,  # /workspace with downloads and artefacts; nothing is taken before it is written
    pids=256,  # a BLAS thread per core, joblib workers and subprocesses, but no fork bomb
    open_files=1024,  # the usual soft limit of a login session
)

_SHELL_RESOURCES = Resources(
    memory_mb=1024,  # scripts and coreutils
    disk_mb=2048,
    pids=128,
    open_files=1024,
)

_HOST_PYTHON = "runs this machine's own Python (host), read-only, not a python image"

CATALOGUE = (
    Shipped(
        recipe=Recipe(name="alpine-fast", language="shell"),
        description="Shell scripts; starts fastest.",
        resources=_SHELL_RESOURCES,
        features=_SHELL_FEATURES,
        notes=("stands on this machine's own userland (host), read-only, not on an alpine image",),
    ),
    Shipped(
        recipe=Recipe(name="notebook", language="python", preload=("IPython.display",)),
        description="Exactly the packages of the calling notebook: what imports there imports here.",
        resources=_PYTHON_RESOURCES,
        features=_PYTHON_FEATURES,
        notes=("shows the packages of the calling Python (host), read-only",),
        takes_interpreter=True,
    ),
    Shipped(
        recipe=Recipe(
            name="python",
            language="python",
            preload=(
                "IPython.display",
                "json",
                "math",
                "pathlib",
                "random",
                "re",
                "statistics",
                "subprocess",
            ),
        ),
        description="Python with IPython and the standard library.",
        resources=_PYTHON_RESOURCES,
        features=_PYTHON_FEATURES,
        notes=(_HOST_PYTHON,),
    ),
    Shipped(
        recipe=Recipe(
            name="python-ai",
            language="python",
            layers=(
                PipLayer(
                    (
                        "matplotlib>=3.8",
                        "numpy>=1.26",
                        "pandas>=2.1",
                        "pillow>=10.1",
                        "scikit-learn>=1.3",
                        "scipy>=1.11",
                    )
                ),
            ),
            preload=(
                "IPython.display",
                "numpy",
                "pandas",
                "scipy",
                "scipy.stats",
                "sklearn",
                "sklearn.datasets",
                "sklearn.ensemble",
                "sklearn.linear_model",
                "sklearn.metrics",
                "sklearn.model_selection",
                "sklearn.pipeline",
                "sklearn.preprocessing",
                "matplotlib",
                "matplotlib.pyplot",
                "PIL.Image",
            ),
        ),
        description="Python with numpy, pandas, scipy, scikit-learn, matplotlib and pillow, imported beforehand.",
        resources=_PYTHON_RESOURCES,
        features=_PYTHON_FEATURES,
        notes=(_HOST_PYTHON,),
    ),
)
