from pathlib import Path

from clusters.propagation import Acknowledgements, Propagation


def test_percentiles_by_the_nearest_rank():
    few = Propagation((3.0, 1.0, 2.0))
    assert (few.p50, few.p99, few.n) == (2.0, 3.0, 3)
    many = Propagation(tuple(float(i) for i in range(1, 201)))
    assert many.p99 == 198.0


def test_only_whole_lines_of_new_acknowledgements_count(tmp_path: Path):
    log = tmp_path / "sidecar.log"
    log.write_text('{"event": "envoy acknowledged", "at_ns": 1}\n')
    acknowledged = Acknowledgements(log)
    with log.open("a") as file:
        file.write('{"event": "other"}\n{"event": "envoy acknowledged", "at_ns": 2}\n{"event": "envoy ackn')
        file.flush()
        assert acknowledged.read() == [2]
        file.write('owledged", "at_ns": 3}\n')
        file.flush()
        assert acknowledged.read() == [3]
    acknowledged.close()
