"""Operations drawn by chance. What makes no sense in the model at that moment is drawn again."""

from __future__ import annotations

import random
from typing import Any

from trees_look import ROOTS
from trees_model import Folder, Handle, Inapplicable, State
from trees_world import Operation, World

MOST_NODES = 6
MOST_TAKEN = 5
CELL_DRAWS = 10
TEXTS = ("one ", "two\nlines ", "", "x" * 700, "end\n")
VALUES = (
    "1", "'text'", "2.5", "None", "[1, 2, 3]", "{'k': 1}", "(l0, 'pair')", "[l0, [l1, {'in': 4}]]", "{'a': d0, 'b': l1}",
    "v0", "v1", "[v0, v0]", "[v1, b0]", "d0", "set('abc')", "b'raw'", "[g0, l0]", "[i0, 5]", "bytearray(b'ab')", "10**30",
)  # fmt: skip
CHANGES = (
    ("l0", "append(7)"), ("l0", "append(11)"), ("l1", "append(3)"), ("l1", "insert(0, 9)"), ("l0", "pop()"), ("l1", "pop(0)"),
    ("l1", "extend([4, 4])"), ("d0", "update(x=1)"), ("d0", "update(l=l0)"), ("d0", "update(v=v1)"), ("d0", "clear()"),
    ("v0", "append(5)"), ("v1", "append(6)"), ("v0", "update(y=[1])"), ("v2", "append(l1)"), ("l1", "sort()"),
)  # fmt: skip
ITERATORS = ("iter(l0)", "iter(l1)", "iter(range(4))", "enumerate([5, 6, 7])", "iter([8, 9])")
FIRST = [
    ("assign", "l0", "[1, 2, 3, 4]"),
    ("assign", "l1", "[5, 6]"),
    ("assign", "d0", "{}"),
    ("assign", "v0", "'first'"),
]


class Draw:
    """rng: of the tree; nothing else decides."""

    def __init__(self, rng: random.Random, world: World) -> None:
        self.rng = rng
        self.world = world
        self.next_node = 1
        self.next_snapshot = 0

    def operation(self) -> Operation:
        rng, world = self.rng, self.world
        if not world.nodes or rng.random() < 0.01:
            if world.taken and rng.random() < 0.8:
                return self.restore()
            return ("open", self.node_number(), 0)
        few, many = len(world.nodes) < 2, len(world.nodes) >= MOST_NODES
        kept = [number for number, node in world.nodes.items() if node.kept]
        choices: dict[str, int] = {
            "run": 42,
            "together": 0 if few else 12,
            "snapshot": 16 if len(world.taken) < MOST_TAKEN else 4,
            "restore": 16 if world.taken and not many else 0,
            "delete": 4 if world.taken else 0,
            "rename": 2 if world.taken else 0,
            "end": 1 if few else 4,
            "rewind": 10 if kept else 0,
            "look": 4,
            "outside": 5,
        }
        chosen = rng.choices(list(choices), list(choices.values()))[0]
        if chosen in ("run", "together", "snapshot", "restore"):
            made: Operation = getattr(self, chosen)()
            return made
        if chosen == "delete":
            return ("delete", rng.choice(list(world.taken)))
        if chosen == "rename":
            return ("rename", rng.choice(list(world.taken)), rng.choice("pqr"))
        if chosen == "rewind":
            return ("rewind", rng.choice(kept), rng.choice((0, 1, 1, 2, 3, 5)))
        node = self.node()
        if chosen != "outside":
            return (chosen, node)
        path = self.path(world.nodes[node].state, there=0.8)
        return ("look_from_outside", node, path) if rng.random() < 0.6 else ("put", node, path, rng.choice(TEXTS))

    def run(self, node: int | None = None) -> Operation:
        """Some cells in one request, each drawn until it makes sense after those before it."""
        node = self.node() if node is None else node
        state = self.world.nodes[node].state.copy()
        cells: list[tuple[Any, ...]] = []
        for _ in range(self.rng.choice((1, 2, 2, 3, 4))):
            for _ in range(CELL_DRAWS):
                cell = self.cell(state)
                try:
                    self.world.cell(state, cell)
                except Inapplicable:
                    continue
                cells.append(cell)
                break
        return ("run", node, cells)

    def snapshot(self, node: int | None = None) -> Operation:
        self.next_snapshot += 1
        name = self.rng.choice(("p", "q", "r", None, None, None))
        portable = self.rng.choice(
            ("never", "never", "now", "now", "later") if self.world.form == "any" else ("never",)
        )
        return ("snapshot", self.node() if node is None else node, self.next_snapshot, name, portable)

    def restore(self) -> Operation:
        rng, world = self.rng, self.world
        nodes = [self.node_number() for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
        number = rng.choice(list(world.taken))
        form = rng.choice(("live", None, "portable", "portable") if world.form == "any" else ("live", None))
        variables: Any = rng.choice((None, {"v3": [number, "given"], "v4": {"k": None}}))
        if form is None and world.taken[number].portable == "later":
            form = "live"
        return ("restore", number, nodes, form, rng.random() < 0.2, None if world.shell else variables)

    def together(self) -> Operation:
        """What concerns different sessions and snapshots."""
        first, second = self.rng.sample(list(self.world.nodes), 2)
        choices: list[Operation] = [self.run(first)]
        node = self.world.nodes[second]
        if node.kept:
            choices.append(("rewind", second, self.rng.choice((0, 1, 2))))
        else:
            choices.append(self.rng.choice((self.run(second), self.snapshot(second), ("look", second))))
        if self.world.taken:
            choices.append(self.restore())
        return ("together", *(choices[-2:] if self.rng.random() < 0.5 else choices))

    def node(self) -> int:
        return self.rng.choice(list(self.world.nodes))

    def node_number(self) -> int:
        self.next_node += 1
        return self.next_node

    # Cells

    def cell(self, state: State) -> tuple[Any, ...]:
        if self.world.shell or self.rng.random() < 0.45:
            return self.file_cell(state)
        return self.handle_cell(state) if self.rng.random() < 0.5 else self.variable_cell()

    def variable_cell(self) -> tuple[Any, ...]:
        rng = self.rng
        number = rng.randrange(2)
        return rng.choice(
            (
                ("assign", f"v{rng.randrange(4)}", rng.choice(VALUES)),
                ("assign", f"v{rng.randrange(4)}", rng.choice(VALUES)),
                ("change", *rng.choice(CHANGES)),
                ("change", *rng.choice(CHANGES)),
                ("delete", rng.choice(("v0", "v1", "h0", "g0", "b0"))),
                ("box", f"b{number}", rng.choice("xyz"), rng.choice(VALUES)),
                ("generator", f"g{number}", rng.choice(("l0", "l1"))),
                ("advance", f"g{number}"),
                ("iterator", f"i{number}", rng.choice(ITERATORS)),
                ("step", f"i{number}"),
                ("closure", f"c{number}", rng.randrange(50)),
                ("bump", f"c{number}"),
                ("score", "f0"),
                ("seed", rng.randrange(1000)),
                ("draw",),
                ("own", f"r{number}", rng.randrange(1000)),
            )
        )

    def handle_cell(self, state: State) -> tuple[Any, ...]:
        rng = self.rng
        name = f"h{rng.randrange(3)}"
        if not isinstance(state.variables.get(name), Handle) or rng.random() < 0.15:
            return ("open_file", name, rng.choice(("r", "r", "w", "a", "rb+")), self.path(state, there=0.9))
        return rng.choice(
            (
                ("read", name, rng.choice((1, 3, 10, 1000))),
                ("put", name, rng.choice(TEXTS), rng.random() < 0.6),
                ("seek", name, rng.choice((0.0, 0.5, 1.0))),
                ("close", name),
            )
            if rng.random() < 0.9
            else (("close", name),)
        )

    def file_cell(self, state: State) -> tuple[Any, ...]:
        rng = self.rng
        new, there = self.path(state, there=0.2), self.path(state, there=0.95)
        text = rng.choice(TEXTS)
        return rng.choice(
            (
                ("write", new, text),
                ("write", there, text),
                ("append", there, text),
                ("folder", new),
                ("folder", new),
                ("remove", there),
                ("remake", there, rng.random() < 0.7, rng.choice(("a", "n", ""))),
                ("rename", there, new),
                ("rename", there, self.path(state, there=0.7)),
                ("chdir", rng.choice([p for p, n in state.files.items() if isinstance(n, Folder)])),
                ("environ", f"T_{rng.choice('AB')}", rng.choice(("1", "two words", "", None))),
                ("link", new, rng.choice(("a", "b", "../a", "/workspace/a", "nowhere"))),
                ("chmod", there, rng.choice((0o600, 0o644, 0o755))),
                ("cut", there, rng.choice((0, 2))),
                *((("replace", there, text), ("stamp", there, rng.randrange(10**18))) if not self.world.shell else ()),
            )
        )

    def path(self, state: State, *, there: float) -> str:
        """Of something that is there, by that chance, or else that may be."""
        rng = self.rng
        known = [path for path in state.files if path not in ROOTS]
        if known and rng.random() < there:
            return rng.choice(known)
        parent = rng.choice([p for p, n in state.files.items() if isinstance(n, Folder) and p.count("/") < 5])
        if rng.random() < 0.3:
            parent = "/workspace"
        return f"{parent}/{rng.choice('abcd')}"
