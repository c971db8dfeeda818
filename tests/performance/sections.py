"""The sections of the bench, in the order they run."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from tests.performance import whole_way
from tests.performance.figures import Figure
from tests.performance.stage import Stage

Section = Callable[[Stage], Coroutine[Any, Any, list[Figure]]]
SECTIONS: Mapping[str, Section] = {
    whole_way.SECTION: whole_way.measure,
}
