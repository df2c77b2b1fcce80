"""Cells on a Ray cluster of two workers, which share this machine."""

import pytest

from resprout.compare import compare
from resprout.compare.cluster import Cluster
from resprout.core.errors import ResproutError


@pytest.mark.slow
def test_two_workers_come_to_what_one_process_does(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs Ray: pip install 'resprout[ray]'")
    import ray
    from ray.cluster_utils import Cluster as Machines

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            machines.add_node(num_cpus=1)
        engine = Cluster(machines.address)
        assert engine.slots == 2
        given = {"sparsity": [0.5, 0.8], "seeds": 1, "epochs": 2.0, "dense_epochs": 2.0}
        here = compare(["one_way"], out=tmp_path / "here", **given)
        there = compare(["one_way"], out=tmp_path / "there", engine=engine, **given)
        assert not there.failed
        assert [r["test"] for r in there.rows] == [r["test"] for r in here.rows]
        wrong = compare(
            ["one_way"], out=tmp_path / "wrong", engine=engine, **given | {"budget": ["1B"], "sparsity": []}
        )
        assert "BudgetError" in wrong.failed["one_way 1B seed 0"]
    finally:
        ray.shutdown()
        machines.shutdown()


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ResproutError, match=r"resprout\[ray\]"):
        Cluster()
