"""Reading /metrics in tests."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Api
from tests.support.server import METRICS_TOKEN


class Figures:
    """Figures of a service's /metrics at one moment."""

    def __init__(self, text: str) -> None:
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.names: set[str] = set()  # of samples, also of families that have none yet
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            self.names |= {family.name + suffix for suffix in suffixes}
            for sample in family.samples:
                self.names.add(sample.name)
                self._samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a series; 0 if there is none, as Prometheus' `rate` takes it."""
        assert name in self.names, name
        return self._samples.get((name, tuple(sorted(labels.items()))), 0.0)

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series of a name."""
        return [(dict(labels), value) for (own, labels), value in self._samples.items() if own == name]


async def figures(base_url: str, token: str = METRICS_TOKEN) -> Figures:
    """The figures of a service that takes this token."""
    answer = await Api(base_url).get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return Figures(answer.text)
