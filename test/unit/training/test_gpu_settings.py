"""A profile's ``[compute]`` table: what it refuses, and what it sets for a GPU and never for the CPU."""

import re

import pytest
import torch
from refusals import refused_with

from training.gpu_settings import require_settings, scales_gradients, settle_network, settle_process
from training.make_run import execute
from training.profile import PROFILES, Compute, load_profile


def profile_with(tmp_path, table):
    path = tmp_path / "p.toml"
    text = (PROFILES / "modern.toml").read_text()
    path.write_text(re.sub(r"(?s)\[compute\].*", f"[compute]\n{table}\n", text))
    return load_profile(path)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("tensorfloat = true", "compute.tensorfloat: Extra inputs are not permitted"),
        ('amp = "fp8"', "compute.amp: Input should be 'fp32', 'tf32', 'fp16' or 'bf16'"),
        ('compile = "yes"', "compute.compile"),
        ("channels_last = 1", "compute.channels_last: Input should be a valid boolean"),
        ("cudnn_benchmark = true", "cudnn_benchmark: expected false where deterministic is true, found true"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, table, fault):
    with refused_with(r"p\.toml$", problem=re.escape(fault)):
        profile_with(tmp_path, table)


def test_without_a_table_a_profile_keeps_the_hash_that_it_had():
    demo = load_profile("demo")
    assert demo.compute == Compute(deterministic=True, cudnn_benchmark=False, compile=False, amp="fp16")
    assert "compute" not in demo.model_dump(mode="json")
    fast = demo.model_copy(update={"compute": Compute(deterministic=False)})
    assert fast.sha256 != demo.sha256 == "21eb333f923559b93f2f029753066a36fff71181610252cac35d95ca19268b59"


def test_modern_computes_as_stock_nnunet_and_study_repeats_its_bits():
    fast = Compute(deterministic=False, cudnn_benchmark=True, compile="auto", amp="fp16")
    assert (load_profile("modern").compute, load_profile("rsna2022").compute) == (fast, Compute())


@pytest.fixture
def t4(monkeypatch):
    """A T4 by what torch says of it, and a machine with Triton and without a compiler."""
    for what, answer in [
        ("is_bf16_supported", False),
        ("is_tf32_supported", False),
        ("get_device_capability", (7, 5)),
        ("get_device_name", "Tesla T4"),
    ]:
        monkeypatch.setattr(torch.cuda, what, lambda *_, answer=answer: answer)
    monkeypatch.setattr("training.gpu_settings.importlib.util.find_spec", lambda _: object())
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize(
    ("table", "where", "found"),
    [
        ('amp = "bf16"', "profile modern: compute.amp", "Tesla T4 .*emulates bf16"),
        ('amp = "tf32"', "profile modern: compute.amp", "Tesla T4 .*no TF32"),
        ("compile = true", "profile modern: compute.compile", r"no C compiler \(gcc, clang, cc\); install it, or set"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(t4, tmp_path, table, where, found):
    profile = profile_with(tmp_path, table)
    with refused_with(where, found=found):
        require_settings(profile, "cuda")
    require_settings(profile, "cpu")  # where it does not count


def test_compilation_without_triton_is_refused_or_with_auto_left_out(t4, tmp_path, monkeypatch):
    monkeypatch.setattr("training.gpu_settings.importlib.util.find_spec", lambda _: None)
    with refused_with("compute.compile", found="no Triton; "):
        require_settings(profile_with(tmp_path, "compile = true"), "cuda")
    require_settings(load_profile("modern"), "cuda")


def test_a_run_that_the_gpu_cannot_make_leaves_nothing(t4, planned, edited_profile, tmp_path, monkeypatch):
    monkeypatch.setattr("training.make_run.choose_device", lambda _: type("Chosen", (), {"kind": "cuda"}))
    profile = edited_profile(("[plan]", '[compute]\namp = "bf16"\n\n[plan]'))
    with refused_with("profile tiny: compute.amp"):
        execute(planned(profile=profile), tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def settings(monkeypatch):
    """The process's settings as they are now; afterwards they are what they were."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    monkeypatch.setattr(cudnn, "deterministic", cudnn.deterministic)
    monkeypatch.setattr(cudnn, "allow_tf32", cudnn.allow_tf32)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    dtype = torch.get_autocast_dtype("cuda")

    def now():
        return {
            "deterministic": (cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
            "benchmark": cudnn.benchmark,
            "amp": (torch.get_autocast_dtype("cuda"), cudnn.allow_tf32),
            "filled": torch.utils.deterministic.fill_uninitialized_memory,
        }

    yield now
    torch.use_deterministic_algorithms(False)
    torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (
            Compute(),
            {"deterministic": (True, True), "benchmark": False, "amp": (torch.float16, True), "filled": False},
        ),
        (
            Compute(deterministic=False, cudnn_benchmark=True, amp="bf16"),
            {"deterministic": (False, False), "benchmark": True, "amp": (torch.bfloat16, True), "filled": False},
        ),
        (
            Compute(amp="fp32"),
            {"deterministic": (True, True), "benchmark": False, "amp": (torch.float32, False), "filled": False},
        ),
        (
            Compute(amp="tf32"),
            {"deterministic": (True, True), "benchmark": False, "amp": (torch.float32, True), "filled": False},
        ),
    ],
)
def test_each_training_settles_the_process_for_its_own_steps(settings, compute, expected):
    settle_process(Compute(deterministic=False, cudnn_benchmark=True, amp="tf32"), "cuda")  # another one's
    settle_process(compute, "cuda")
    assert settings() == expected


def test_on_the_cpu_no_setting_is_touched(settings):
    before = settings()
    settle_process(Compute(amp="fp32", channels_last=True, compile=True), "cpu")
    assert settings() == before
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3))
    settle_network(network, Compute(channels_last=True, compile=True), "cpu")
    assert network[0].weight.is_contiguous()
    assert network._compiled_call_impl is None


def test_a_network_is_laid_out_and_compiled_in_place(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda called: called)  # importing the compiler takes seconds
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3))
    names, weight = list(network.state_dict()), network[0].weight
    settle_network(network, Compute(channels_last=True, compile=True), "cuda")
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == names
    assert network[0].weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("amp", "kind", "scaled"), [("fp16", "cuda", True), ("bf16", "cuda", False), ("fp16", "cpu", False)]
)
def test_gradients_are_scaled_where_half_precision_would_lose_them(amp, kind, scaled):
    assert scales_gradients(Compute(amp=amp), kind) is scaled
