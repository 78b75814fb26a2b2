"""GPUs as XLA's compiler wants them described when none is there (fields of its GpuTargetConfigProto)."""


def _target(name: str, cores: int, memory: int, bandwidth: int, l2: int, clock: float, capability: int) -> str:
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        f"shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: 128 "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock} device_memory_size: {memory} "
        f"shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: {capability} }} "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f'device_description_str: "{name}"'
    )


TARGETS = {
    "h100": _target("NVIDIA H100 80GB HBM3", 132, 84_929_347_584, 3_352_320_000_000, 52_428_800, 1.98, 9),
    "h200": _target("NVIDIA H200", 132, 150_000_000_000, 4_800_000_000_000, 52_428_800, 1.98, 9),
    "b200": _target("NVIDIA B200", 148, 191_000_000_000, 8_000_000_000_000, 132_644_864, 1.965, 10),
}
FLAGS = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"  # autotuning measures, on a device
