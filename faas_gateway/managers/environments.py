"""Environments: which there are, what they are made of, and how far their build is."""

from __future__ import annotations

import dataclasses
import sys

from faas.types import Environment, Interpreter

from faas_gateway.backends.base import (
    BackendUnavailable,
    BuildFailed,
    HostInterpreter,
    Image,
    Language,
    ProgressReport,
    Recipe,
    Report,
    SandboxBackend,
)
from faas_gateway.errors import InvalidRequestError, UnknownEnvironmentError, suggest
from faas_gateway.managers.catalogue import CATALOGUE, Shipped


class EnvironmentManager:
    """The catalogue, and the images that were built from it."""

    def __init__(self, backend: SandboxBackend) -> None:
        self._backend = backend
        self._shipped = {shipped.recipe.name: shipped for shipped in CATALOGUE}
        self._images: dict[Recipe, Image] = {}
        self._building: dict[Recipe, int] = {}
        self._failed: set[Recipe] = set()

    def get_shipped(self, name: str) -> Shipped:
        """An environment of the catalogue.

        Raises:
            UnknownEnvironmentError: there is none of that name; suggests the nearest.
        """
        shipped = self._shipped.get(name)
        if shipped is None:
            names = ", ".join(sorted(self._shipped))
            hint = f"{suggest(name, self._shipped)} There are: {names}.".strip()
            raise UnknownEnvironmentError(f"There is no environment {name!r}.", hint=hint)
        return shipped

    def recipe(self, shipped: Shipped, interpreter: Interpreter | None) -> Recipe:
        """What is built for a caller.

        Raises:
            InvalidRequestError: an interpreter was given to an environment that has its own.
        """
        name = shipped.recipe.name
        if not shipped.takes_interpreter:
            if interpreter is None:
                return shipped.recipe
            raise InvalidRequestError(
                f"interpreter: environment {name!r} does not show the packages of a Python of yours",
                hint="Leave interpreter out, or use the environment notebook.",
            )
        if interpreter is None:
            host = HostInterpreter(sys.executable, sys.prefix, sys.base_prefix, tuple(p for p in sys.path if p))
        else:
            host = HostInterpreter(
                interpreter.executable, interpreter.prefix, interpreter.base_prefix, tuple(interpreter.path)
            )
        return dataclasses.replace(shipped.recipe, interpreter=host)

    def language(self, recipe: Recipe, asked: Language | None) -> Language:
        """What a session of an environment speaks.

        Raises:
            InvalidRequestError: the environment does not have the language.
        """
        if asked == "python" and recipe.language != "python":
            raise InvalidRequestError(
                f"language: environment {recipe.name!r} has no Python session",
                hint="Leave language out, or use the environment python.",
            )
        return asked or recipe.language

    async def prepare(self, recipe: Recipe, report: Report) -> Image:
        """Build what is missing and start the warm process.

        Raises:
            BuildFailed, BackendUnavailable, StartFailed: as the backend does.
        """
        image = self._images.get(recipe)
        if image is None:
            image = await self._build(recipe, report)
        if not self._backend.is_warm(image):
            report(ProgressReport("warm", f"starting the warm process of {recipe.name}"))
            await self._backend.warm(image, report)
        return image

    def forget(self, recipe: Recipe) -> None:
        """Look at the build again the next time: something made from it did not start."""
        self._images.pop(recipe, None)

    def get(self, name: str) -> Environment:
        return self._describe(self.get_shipped(name))

    def list(self) -> list[Environment]:
        return [self._describe(self._shipped[name]) for name in sorted(self._shipped)]

    async def _build(self, recipe: Recipe, report: Report) -> Image:
        report(ProgressReport("build", f"preparing {recipe.name}"))
        self._building[recipe] = self._building.get(recipe, 0) + 1
        try:
            image = await self._backend.build(recipe, report)
        except (BuildFailed, BackendUnavailable):
            self._failed.add(recipe)
            raise
        finally:
            self._building[recipe] -= 1
            if not self._building[recipe]:
                del self._building[recipe]
        self._failed.discard(recipe)
        self._images[recipe] = image
        return image

    def _describe(self, shipped: Shipped) -> Environment:
        recipe = self.recipe(shipped, None)
        image = self._images.get(recipe)
        if recipe in self._building:
            status = "building"
        elif image is not None or self._backend.is_built(recipe):
            status = "ready"
        else:
            status = "failed" if recipe in self._failed else "not_built"
        return Environment(
            name=recipe.name,
            version=image.version if image is not None else self._backend.version_of(recipe),
            language=recipe.language,
            base_image=recipe.base_image,
            description=shipped.description,
            layers=[{"pip": list(layer.packages)} for layer in recipe.layers],
            resources=shipped.resources,
            features=list(shipped.features),
            status=status,
            warm=image is not None and self._backend.is_warm(image),
            notes=list(shipped.notes),
        )
