"""From a recipe to an image: which layers it has, what each is built by, and the version that names them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from faas_gateway.backends.base import Image, PipLayer, ProgressReport, Recipe, Report
from faas_gateway.backends.native import pip_layer, rootfs, runtime_layer
from faas_gateway.backends.native.interpreter import HostPython, host_python
from faas_gateway.backends.native.layers import LayerStore, digest

Builder = Callable[[Path, Report], Awaitable[None]]


@dataclass(frozen=True)
class Layer:
    name: str
    build: Builder


@dataclass(frozen=True)
class Plan:
    """A version's digest, and its layers, top first."""

    version: str
    layers: tuple[Layer, ...]


def plan(recipe: Recipe) -> Plan:
    python = host_python()
    layers: list[Layer] = []
    if recipe.language == "python" and recipe.interpreter is None:
        layers += [Layer(f"pip-{pip_layer.pip_digest(p, python)}", _pip(p, python)) for p in recipe.layers]
        layers.append(Layer(f"runtime-{runtime_layer.runtime_digest(python)}", _runtime(python)))
    elif recipe.language == "python":
        layers.append(Layer(f"guest-{runtime_layer.guest_digest()}", _guest))
    about: list[object] = [recipe.language, recipe.base_image, list(recipe.preload), [layer.name for layer in layers]]
    if recipe.interpreter is not None:
        i = recipe.interpreter
        about += [i.executable, i.prefix, i.base_prefix, list(i.path)]
    return Plan(digest(about), tuple(layers))


async def build(recipe: Recipe, store: LayerStore, report: Report) -> Image:
    """Make the layers that are not there yet, lowest first. Raises BuildFailed, StartFailed."""
    planned = plan(recipe)
    for layer in reversed(planned.layers):
        if not store.has(layer.name):
            async with store.building(layer.name) as folder:
                if folder is not None:
                    await layer.build(folder, report)
    names = tuple(layer.name for layer in planned.layers)
    if recipe.language == "shell":
        detail = rootfs.shell_image()
    elif recipe.interpreter is not None:
        detail = rootfs.callers_python(recipe, recipe.interpreter, names[0])
    else:
        detail = rootfs.our_python(recipe, host_python(), names)
    return Image(recipe, planned.version, detail)


def _pip(layer: PipLayer, python: HostPython) -> Builder:
    async def build(folder: Path, report: Report) -> None:
        report(ProgressReport("install packages", f"pip install {' '.join(layer.packages)}"))
        await pip_layer.install(layer, python, folder, report)

    return build


def _runtime(python: HostPython) -> Builder:
    async def build(folder: Path, report: Report) -> None:
        report(ProgressReport("runtime", "copying IPython's kernel into a layer"))
        await anyio.to_thread.run_sync(runtime_layer.write_runtime, folder, python)

    return build


async def _guest(folder: Path, report: Report) -> None:
    report(ProgressReport("runtime", "laying down the guest"))
    await anyio.to_thread.run_sync(runtime_layer.write_guest, folder)
