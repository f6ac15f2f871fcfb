"""What the sessions of the benchmarks hold: the same in a sandbox and in what stands beside it."""

from __future__ import annotations

from faas import Execution, FaaSClient
from faas.types import ExecutionResult

ENVIRONMENT = "python-ai"
MB = 1 << 20
GREETING = "x = 'hello'\n"
ASK, ANSWER = "print(x)", "hello\n"

#: A data set as it is loaded: some large arrays. numpy asks for huge pages for arrays of 4 MB and more.
ARRAYS = "import numpy as np\nbig = [np.ones({mb} << 14) for _ in range(8)]\n"
#: The same in arrays for which it does not, so that there are 512 times as many pages.
SMALL_ARRAYS = "import numpy as np\nbig = [np.ones(131072) for _ in range({mb})]\n"
OBJECTS = "big = [{{'i': i, 's': str(i)}} for i in range({mb} * 3320)]\n"
FILES = "import pathlib\nfor n in range({count}):\n    pathlib.Path(f'file-{{n}}').write_text('some text')\n"
LARGE_FILE = (
    "import os\nwith open('large', 'wb') as f:\n    for _ in range({mb}):\n        n = f.write(os.urandom(1 << 20))\n"
)


class WrongAnswer(Exception):
    """A session, or what stands beside it, did not answer what it had to."""


def arrays(mb: int) -> str:
    """Code that makes arrays of so many MiB together."""
    return GREETING + ARRAYS.format(mb=mb)


def small_arrays(mb: int) -> str:
    """Code that makes as many arrays of one MiB."""
    return GREETING + SMALL_ARRAYS.format(mb=mb)


def objects(mb: int) -> str:
    """Code that makes dicts that take about so many MiB together; 3.4 million are one GiB."""
    return GREETING + OBJECTS.format(mb=mb)


def succeeded(result: ExecutionResult) -> ExecutionResult:
    if result.status != "success":
        raise WrongAnswer(f"{result.status}: {result.error or result.stderr}")
    return result


async def opened(client: FaaSClient, code: str, **options: object) -> Execution:
    """A session that has run this code."""
    execution = await client.executions.create(ENVIRONMENT, **options)  # type: ignore[arg-type]
    succeeded(await execution.execute(code))
    return execution


async def ask(execution: Execution) -> None:
    """One request, and a look at its answer. Raises WrongAnswer."""
    result = succeeded(await execution.execute(ASK))
    if result.stdout != ANSWER:
        raise WrongAnswer(repr(result.stdout))
