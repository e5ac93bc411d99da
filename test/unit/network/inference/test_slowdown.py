import torch

from network.inference.slowdown import slowdown


def test_a_slowdown_is_the_ratio_of_warm_passes(monkeypatch):
    ticks = iter([0.0, 2.0, 10.0, 15.0])  # each second pass: 2 s in fp32, 5 s in bf16
    monkeypatch.setattr("network.inference.slowdown.time.process_time", lambda: next(ticks))
    dtypes = []
    network = torch.nn.Conv3d(1, 1, 1)
    network.register_forward_hook(lambda *arguments: dtypes.append(arguments[-1].dtype))
    assert slowdown(network, torch.ones(2, 1, 2, 2, 2), "bf16") == 2.5
    assert dtypes == [torch.float32] * 2 + [torch.bfloat16] * 2
