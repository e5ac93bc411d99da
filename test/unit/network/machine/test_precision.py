"""What each device computes in; a GPU by stand-ins for what torch says of it."""

import pytest
import torch
from refusals import refused_with

from network.machine.precision import choose_precision, computing_in, native_precisions


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of some compute capability. ``is_bf16_supported`` is torch's own, which also counts emulation."""

    def make(name, capability):
        class Properties:
            major = capability[0]

        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for what, answer in [
            ("is_available", True),
            ("current_device", 0),
            ("get_device_properties", Properties),
            ("get_device_capability", capability),
            ("get_device_name", name),
            ("_check_bf16_tensor_supported", True),
        ]:
            monkeypatch.setattr(torch.cuda, what, lambda *_, answer=answer: answer)

    return make


T4, A100 = ("Tesla T4", (7, 5)), ("NVIDIA A100", (8, 0))


@pytest.mark.parametrize(("card", "native"), [(T4, "fp32 fp16"), (A100, "fp32 tf32 fp16 bf16")])
def test_a_card_computes_in_what_it_does_not_emulate(gpu, card, native):
    gpu(*card)
    assert torch.cuda.is_bf16_supported()  # torch counts emulation
    assert native_precisions("cuda") == native.split()
    for precision in native_precisions("cuda"):
        assert choose_precision(precision, "cuda") == precision


@pytest.mark.parametrize("card", [T4, A100])
def test_auto_is_fp16_on_any_card_and_fp32_on_the_cpu(gpu, card):
    gpu(*card)
    assert (choose_precision("auto", "cuda"), choose_precision("auto", "cpu")) == ("fp16", "fp32")


@pytest.mark.parametrize(
    ("precision", "kind", "found"),
    [
        ("bf16", "cuda", r"^Tesla T4 \(7\.5\), which emulates bf16 slowly; use fp16$"),
        ("tf32", "cuda", r"^Tesla T4 \(7\.5\), which has no TF32; use fp32 or fp16$"),
        ("tf32", "cpu", "^the CPU, which has no TF32; use fp32$"),
    ],
)
def test_what_the_device_cannot_do_is_refused(gpu, precision, kind, found):
    gpu(*T4)
    with refused_with(f"^--precision {precision}$", expected=r"compute capability 8\.0", found=found):
        choose_precision(precision, kind)


@pytest.mark.parametrize(
    ("precision", "dtype", "tf32"),
    [("fp32", "float32", False), ("tf32", "float32", True), ("fp16", "float16", False), ("bf16", "bfloat16", False)],
)
def test_only_convolutions_in_here_compute_so(monkeypatch, precision, dtype, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    convolution, image = torch.nn.Conv3d(1, 1, 1), torch.ones(1, 1, 2, 2, 2)
    with computing_in(precision, "cpu"):
        assert convolution(image).dtype == getattr(torch, dtype)
        assert torch.backends.cudnn.allow_tf32 is tf32
    assert convolution(image).dtype == torch.float32
    assert torch.backends.cudnn.allow_tf32 is True


@pytest.mark.gpu
def test_a_real_gpu_computes_in_all_that_it_is_said_to():
    convolution, image = torch.nn.Conv3d(8, 8, 3).cuda(), torch.randn(1, 8, 8, 8, 8, device="cuda")
    results = {}
    for precision in native_precisions("cuda"):
        with computing_in(precision, "cuda"), torch.no_grad():
            results[precision] = convolution(image).float()
    for precision, result in results.items():
        torch.testing.assert_close(result, results["fp32"], rtol=0, atol=0.0 if precision == "fp32" else 0.05)
