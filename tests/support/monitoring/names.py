"""The names that Prometheus knows the instruments of workers and forwarders by."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from learner_worker.observability import ForwardingInstruments, Instruments

ALL: Final = Instruments()
FORWARDING: Final = ForwardingInstruments()
BUILD: Final = "learner_build_info"


def name_of(instrument: Counter | Gauge | Histogram) -> str:
    """The name of its samples; of a histogram without `_bucket`, `_sum` or `_count`."""
    [family] = instrument.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name
