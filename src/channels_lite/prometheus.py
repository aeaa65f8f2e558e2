"""The stats of layers for Prometheus. Importing this needs ``prometheus_client`` (``channels-lite[prometheus]``).

Once in each process that Prometheus may ask::

    prometheus_client.REGISTRY.register(channels_lite.prometheus.Collector())

Whichever is asked, the counts are those of all processes that use the database (where there are inboxes, on Linux;
elsewhere its own). Synchronous code collects them: a coroutine writes ``await sync_to_async(generate_latest)()``.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from channels import DEFAULT_CHANNEL_LAYER
from channels.exceptions import InvalidChannelLayerError
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as Base

from channels_lite.errors import ChannelsLiteError, LoopRunning
from channels_lite.layers import get_layer
from channels_lite.stats import Process, Stats, together

logger = logging.getLogger("channels_lite.prometheus")

Seen = dict[str, Stats]


class Collector(Base):
    """The metrics of these entries of CHANNEL_LAYERS; of the default one, where none is named.

    ConfigError where an entry is no layer of this package. One that cannot be asked when Prometheus does is left out of
    the metrics but for ``channels_lite_up``, and the log says why.
    """

    def __init__(self, *aliases: str) -> None:
        self._aliases = aliases or (DEFAULT_CHANNEL_LAYER,)
        for alias in self._aliases:
            get_layer(alias)

    def describe(self) -> Iterator[Metric]:
        """The names of the metrics: to be registered must open no database, and twice is refused."""
        return _of_all({})

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        return _of_all({alias: _ask(alias) for alias in self._aliases})


def _ask(alias: str) -> Stats | None:
    failures: tuple[type[Exception], ...] = (ChannelsLiteError, InvalidChannelLayerError)
    try:
        layer = get_layer(alias)
        failures += layer.failures
        return layer.sync.stats()
    except LoopRunning:
        raise
    except failures:  # the process's other metrics must not be lost with these
        logger.exception("The layer %r cannot be asked for its metrics.", alias)
        return None


def _of_all(asked: Mapping[str, Stats | None]) -> Iterator[Metric]:
    up = _gauge("up", "Whether the layer could be asked")
    for layer, stats in asked.items():
        up.add_metric([layer], stats is not None)
    yield up
    seen = {layer: stats for layer, stats in asked.items() if stats is not None}
    yield from _of_databases(seen)
    yield from _of_processes(seen)


def _of_databases(seen: Seen) -> Iterator[Metric]:
    pending = _gauge("pending_messages", "Live messages; process-specific channels by what they begin with", "channel")
    members = _gauge("group_members", "Live members of a group", "group")
    age = _gauge("oldest_message_age_seconds", "Since when the oldest pending message waits; 0 where there is none")
    database = _gauge("database_bytes", "The size of the database")
    wal = _gauge("wal_bytes", "The size of its -wal")
    version = _gauge("schema_version", "The number of the last SQL file that was applied")
    for layer, stats in seen.items():
        for channel, number in _by_kind(stats.pending).items():
            pending.add_metric([layer, channel], number)
        for group, number in stats.groups.items():
            members.add_metric([layer, group], number)
        age.add_metric([layer], stats.oldest_age or 0)
        database.add_metric([layer], stats.database_bytes)
        wal.add_metric([layer], stats.wal_bytes)
        version.add_metric([layer], stats.schema_version)
    yield from (pending, members, age, database, wal, version)


def _by_kind(pending: dict[str, int]) -> Counter[str]:
    """Process-specific channels together by their prefix: each has a new name, and Prometheus keeps every one."""
    numbers: Counter[str] = Counter()
    for channel, number in pending.items():
        queue, mark, _ = channel.partition("!")
        numbers[queue.rpartition(".")[0] + mark if mark else channel] += number
    return numbers


def _of_processes(seen: Seen) -> Iterator[Metric]:
    sent = _counter("sent_messages", "Messages that were sent; a group's counts once")
    received = _counter("received_messages", "Messages that were received")
    dropped = _counter("dropped_messages", "Messages that were dropped; those that could not be decoded too", "reason")
    retries = _counter("busy_retries", "How often a locked database was tried again")
    parked = _gauge("parked_messages", "Messages in the memory of a process", "pid")
    listening = _gauge("listening", "1 for the way in which a process hears of others", "pid", "by")
    for layer, stats in seen.items():
        for process in _by_pid(stats.processes):
            labels = [layer, str(process.pid)]
            sent.add_metric(labels, process.sent)
            received.add_metric(labels, process.received)
            retries.add_metric(labels, process.busy_retries)
            parked.add_metric(labels, process.parked)
            listening.add_metric([*labels, process.watcher], 1)
            for reason, number in process.dropped.items():
                dropped.add_metric([*labels, reason], number)
    yield from (sent, received, dropped, retries, parked, listening)


def _by_pid(processes: Sequence[Process]) -> Iterator[Process]:
    """Each pid once: in two containers, two processes may have the same."""
    for pid in dict.fromkeys(process.pid for process in processes):
        yield together([process for process in processes if process.pid == pid], pid)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"channels_lite_{name}", text, labels=["layer", *labels])


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"channels_lite_{name}", text, labels=["layer", "pid", *labels])
