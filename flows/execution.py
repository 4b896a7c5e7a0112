"""Runs stages: under Prefect or as plain Python, each with its tracked run, its line in the log and its result kept.

Owns how a stage is run; flows/full.py owns which stages there are and in which order.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from tasks import devices
from tasks.artifacts import Artifact, ServableModel
from tasks.config import PipelineConfig
from tasks.errors import Diverged, Stopped, UserError, WeitiaoError
from tasks.store import Store
from tasks.tracking.tracker import NoTracker, Tracker

log = logging.getLogger(__name__)
T = TypeVar("T")


class Execution:
    """One execution of (a part of) the pipeline.

    Attributes:
        store: where artifacts are published.
        results: what each stage returned, by stage name, in order.
        seconds: how long each stage took in this execution.
        metrics, status: numbers that its tracked run is closed with, and how it ended where no error ended it.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.metrics: dict[str, float] = {}
        self.status = "FINISHED"
        self._label = ""
        self.store = Store(config.paths.root)
        self.results: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.tracker: Tracker = NoTracker()

    def run(self, goal: Callable[[], T], *, name: str, unused: tuple[str, ...] = ()) -> T:
        """Run ``goal``, which calls :meth:`stage`, as one tracked execution.

        Args:
            unused: sections of the configuration that play no part in it, which its run does not tell.
        """
        self.tracker = _tracker(self.config, name, unused)
        with self._closing(timed=True):
            return _as_flow(goal, name) if self.config.orchestrator == "prefect" else goal()

    @contextmanager
    def below(
        self, config: PipelineConfig, name: str, *, unused: tuple[str, ...] = (), timed: bool = True
    ) -> Iterator[Execution]:
        """An execution within this one: its own results, its own tracked run below this one's.

        Args:
            unused: as for :meth:`run`.
            timed: whether how long it was open says anything.
        """
        child = Execution(config)
        child._label = f"{name} "
        child.tracker = self.tracker.below(name, _settings(config, unused))
        with child._closing(timed):
            yield child

    @contextmanager
    def _closing(self, timed: bool) -> Iterator[None]:
        """Close the tracked run with how the block ended."""
        started = time.monotonic()
        status = "FAILED"
        try:
            yield
            status = self.status
        except (KeyboardInterrupt, Stopped):
            status = "KILLED"
            raise
        finally:
            seconds = {"seconds": time.monotonic() - started} if timed else {}
            self.tracker.finish(status, {**seconds, **self.metrics})

    def publish_page(self, key: str, markdown: str) -> None:
        """Show a text on the Prefect flow run's page, where there is one and its server takes it."""
        if self.config.orchestrator != "prefect":
            return
        _prefect()
        from prefect.artifacts import create_markdown_artifact

        try:
            create_markdown_artifact(markdown, key=key)
        except Exception as error:  # a view of what the store holds; nothing is lost without it
            log.warning("Prefect does not take the page %s (%s)", key, first_line(error))

    def stage(self, name: str, work: Callable[..., T], *inputs: Any, **options: Any) -> T:
        """Run one stage; ``store`` and ``on_metrics`` are added where the stage takes them."""
        takes = inspect.signature(work).parameters
        if "store" in takes:
            options["store"] = self.store

        def tracked(*inputs: Any) -> T:
            with _reporting_stops(self.config), self.tracker.stage(name) as span:
                if "on_metrics" in takes:
                    options["on_metrics"] = span.curve
                result = work(*inputs, **options)
                if isinstance(result, Artifact):
                    span.done(result)
                return result

        started = time.monotonic()
        result = (
            _as_task(tracked, self._label + name, self.config)(*inputs)
            if self.config.orchestrator == "prefect"
            else tracked(*inputs)
        )
        self.results[name] = result
        self.seconds[name] = round(time.monotonic() - started, 3)
        return result

    def register(self, model: ServableModel) -> str | None:
        """Register a released model with its scores under serving.model_name and serving.alias."""
        report = self.results.get("evaluate")
        metrics = {"score": report.tuned["value"], "base_score": report.base["value"]} if report else {}
        return self.tracker.register(model, self.config.serving.model_name, self.config.serving.alias, metrics)


def _tracker(config: PipelineConfig, name: str, unused: tuple[str, ...]) -> Tracker:
    if config.tracking.tracker == "none":
        return NoTracker()
    from tasks.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(
        config.tracking,
        config.paths.root.resolve(),
        experiment=config.experiment,
        run_name="-".join([name, *([] if "method" in unused else [config.method.name]), config.model.name]),
        settings=_settings(config, unused),
    )


def _settings(config: PipelineConfig, unused: tuple[str, ...]) -> dict[str, Any]:
    """What a tracked run says of its settings."""
    return config.model_dump(mode="json", exclude=set(unused)) | {"versions": devices.versions()}


def _prefect() -> Any:
    """Prefect, told before its import what this project needs of it."""
    # its default of 20 s was exceeded on a fresh database of a loaded 2-core machine
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import prefect

    for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.task_engine", "prefect.flow_engine"):
        logging.getLogger(name).addFilter(_no_traceback)
    return prefect


@contextmanager
def _reporting_stops(config: PipelineConfig) -> Iterator[None]:
    """Report a stop to Prefect in one try: Ctrl-C ends a temporary server too, which Prefect would ask for a minute."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        if config.orchestrator == "prefect":
            from prefect.settings import get_current_settings

            get_current_settings().client.max_retries = 0
        raise


def _no_traceback(record: logging.LogRecord) -> bool:
    """Errors that say in one line what to do are shown by the command line, without Prefect's traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], WeitiaoError))


def _as_flow(goal: Callable[[], T], name: str) -> T:
    """Run ``goal`` as a flow. What it did counts, also where the server is gone by the time of the flow's end.

    Ctrl-C ends a temporary server too, as it is of the same process group; a server of one's own may die.
    """
    log.info("starting Prefect (orchestrator=none runs without it)")
    results: list[T] = []
    stops: list[BaseException] = []

    def noted() -> T:
        try:
            results.append(goal())
        except (KeyboardInterrupt, Stopped) as stop:
            stops.append(stop)
            raise
        return results[0]

    flow = _prefect().flow(name=f"weitiao-{name}", validate_parameters=False)(noted)
    try:
        return cast(T, flow())
    except WeitiaoError:
        raise
    except Exception as error:
        if stops:
            raise stops[0] from None
        if not results:
            raise
        log.warning("Prefect does not take the end of the flow, which is done (%s)", first_line(error))
        return results[0]


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _may_pass_next_time(task: Any, run: Any, state: Any) -> bool:
    """Whether trying a failed stage again makes sense: not after a user's mistake, a signal or divergence."""
    try:
        state.result()
    except (UserError, Stopped, Diverged):
        return False
    except Exception:
        return True
    return False


def _as_task(work: Callable[..., T], name: str, config: PipelineConfig) -> Callable[..., T]:
    prefect = _prefect()
    from prefect.cache_policies import NO_CACHE

    task = prefect.task(
        name=name,
        retries=config.retries,
        retry_delay_seconds=10,
        retry_condition_fn=_may_pass_next_time,
        cache_policy=NO_CACHE,
    )(work)
    return cast(Callable[..., T], task)
