"""Work as tasks that may run twice."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dask.core import literal
from dask.delayed import Delayed


@dataclass(frozen=True)
class Task:
    """Work that may run twice: it is pure, or writes only what is its own.

    Attributes
    ----------
    key
        What its result is yielded with.
    work
        A Dask collection (a Delayed, a Dataset).
    """

    key: Hashable
    work: Any


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
    """A call as one task, under a name that the dashboard shows.

    Parameters
    ----------
    name
        Words with hyphens between them.
    function
        Picklable.
    *arguments
        What is Delayed, or a list of that, is computed first, by tasks of its own; all else travels with the task.
    """
    key = f"{name}-{uuid4().hex}"
    graph: dict[Any, Any] = {}

    def given(argument: Any) -> Any:
        if isinstance(argument, Delayed):
            graph.update(argument.__dask_graph__())
            return argument.key
        if isinstance(argument, list) and all(isinstance(one, Delayed) for one in argument):
            return [given(one) for one in argument]
        return (literal(argument),)  # a task that gives what it holds, into which Dask does not look

    graph[key] = (function, *map(given, arguments))
    return Delayed(key, graph)


def shared(name: str, value: Any) -> Delayed:
    """A value that several tasks need, as a task of its own: it travels to each worker once."""
    return call(name, _same, value)


def _same(value: Any) -> Any:
    return value
